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

function agreed(rows) {
  const others = rows.slice(1).filter((row) => row.same !== null && row.same !== undefined);
  if (!others.length) return "";
  const different = others.filter((row) => row.same < 0.9995);
  if (!different.length) return others.length === 1 ? "Both agree ✓" : `All ${others.length + 1} agree ✓`;
  const shares = different.map((row) => (rows[0].top ? row.name : `${row.name}: ${(100 * row.same).toFixed(1)} % the same`));
  return `Not as ${rows[0].name}: ${shares.join(", ")}`;
}

function drawn(row, picture) {
  const td = make("td");
  if (!row.boxes && !row.mask) return td;
  const place = make("div");
  place.className = "drawn";
  place.append(Object.assign(make("img"), { src: picture, alt: "the picture as the model receives it" }));
  if (row.mask) place.append(Object.assign(make("img"), { src: row.mask, alt: row.boxes ? "masks of the objects" : "classes of the pixels", className: "mask" }));
  const shapes = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const { box, label, score, color } of row.boxes || []) {
    const shape = document.createElementNS(shapes.namespaceURI, "rect");
    const sizes = { x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1] };
    for (const [name, value] of Object.entries(sizes)) shape.setAttribute(name, `${100 * value}%`);
    shape.setAttribute("stroke", color);
    const text = document.createElementNS(shapes.namespaceURI, "title");
    text.textContent = `${label} ${(100 * score).toFixed(0)} %`;
    shape.append(text);
    shapes.append(shape);
  }
  place.append(shapes);
  const list = make("ul");
  list.className = "found";
  for (const item of row.boxes || row.classes) {
    const share = item.score === undefined ? item.share : item.score;
    const mark = make("span");
    mark.className = "swatch";
    const swatch = document.createElementNS(shapes.namespaceURI, "svg");
    const disc = document.createElementNS(shapes.namespaceURI, "circle");
    for (const [name, value] of Object.entries({ cx: 6, cy: 6, r: 5, fill: item.color })) disc.setAttribute(name, value);
    swatch.append(disc);
    mark.append(swatch);
    const line = make("li");
    line.append(mark, `${item.label} ${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`);
    list.append(line);
  }
  if (row.boxes && !row.boxes.length) list.append(make("li", "nothing found"));
  td.append(place, list);
  return td;
}

function show({ rows, picture }) {
  const table = find("answers");
  const head = make("tr");
  head.append(make("th", ""), ...rows.map((row) => make("th", row.name)));
  table.tHead.replaceChildren(head);
  const times = make("tr");
  const ms = (row) => (row.error ? "" : `${row.median_ms.toPrecision(3)} ms`);
  times.append(make("th", "time"), ...rows.map((row) => make("td", ms(row))));
  const body = [times];
  if (picture) {
    const line = make("tr");
    line.append(make("th", "found"), ...rows.map((row) => drawn(row, picture)));
    body.push(line);
  }
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
  say(failed.join("; ") || agreed(rows), failed.length > 0);
}

async function compare(file) {
  const picture = find("picture");
  URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(file);
  picture.hidden = false;
  find("invitation").hidden = true;
  say("Running …");
  try {
    show(await json(await fetch("/compare", { method: "POST", body: file })));
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
