"use strict";
const find = (id) => document.getElementById(id);
const make = (name, text = "") => Object.assign(document.createElement(name), { textContent: text });
const status = find("status");

function say(text, error = false) {
  status.textContent = text;
  status.className = error ? "error" : "";
}

async function json(response) {
  const document = await response.json();
  if (!response.ok) throw new Error(document.error || response.statusText);
  return document;
}

function named(item) {
  return item.parity ? `${item.name} (${item.parity})` : item.name;
}

function cell(entry, first) {
  const td = make("td");
  if (!entry) return td;
  const bar = make("span");
  bar.className = "bar";
  bar.style.width = `${Math.round(100 * entry.probability)}%`;
  td.append(make("b", `${(100 * entry.probability).toFixed(2)} % `), entry.label, bar);
  if (first !== undefined && entry.index !== first) td.className = "differs";
  return td;
}

function show(rows) {
  const table = find("answers");
  const head = make("tr");
  head.append(make("th", ""), ...rows.map((row) => make("th", row.name)));
  table.tHead.replaceChildren(head);
  const times = make("tr");
  const ms = (row) => (row.error ? "" : `${row.median_ms.toPrecision(3)} ms`);
  times.append(make("th", "time, batch 1"), ...rows.map((row) => make("td", ms(row))));
  const body = [times];
  const reference = rows[0].top || [];
  const ranks = Math.max(...rows.map((row) => (row.top || []).length));
  for (let rank = 0; rank < ranks; rank += 1) {
    const line = make("tr");
    line.append(make("th", `${rank + 1}`));
    for (const row of rows) line.append(cell((row.top || [])[rank], (reference[rank] || {}).index));
    body.push(line);
  }
  table.tBodies[0].replaceChildren(...body);
  table.hidden = false;
  const failed = rows.filter((row) => row.error).map((row) => `${row.name}: ${row.error}`);
  say(failed.join("; "), failed.length > 0);
}

async function compare(file) {
  const picture = find("picture");
  URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(file);
  picture.hidden = false;
  find("invitation").hidden = true;
  say("Running …");
  try {
    show((await json(await fetch("/compare", { method: "POST", body: file }))).rows);
  } catch (error) {
    find("answers").hidden = true;
    say(error.message, true);
  }
}

const drop = find("drop");
find("file").addEventListener("change", (event) => event.target.files[0] && compare(event.target.files[0]));
drop.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files[0]) compare(event.dataTransfer.files[0]);
});

fetch("/page")
  .then(json)
  .then((page) => {
    document.title = `${page.title} — deploy serve`;
    find("title").textContent = page.title;
    find("runs").textContent = page.runs;
    find("about").textContent = page.variants.map(named).join(" · ");
    find("remarks").replaceChildren(...page.remarks.map((text) => make("li", text)));
  })
  .catch((error) => say(error.message, true));
