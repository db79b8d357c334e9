"use strict";
(() => {
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const rows = Array.from(table.tBodies).flatMap((part) => Array.from(part.rows));
  const heads = Array.from(table.tHead.rows[0].cells);
  const filters = document.getElementById("filters");
  const count = document.getElementById("count");
  const more = document.getElementById("more");

  // sort keys and texts are read once and only the first rows are laid out, so that 2000 rows sort within a few frames
  const keys = rows.map((row) => Array.from(row.cells, (cell) => cell.dataset.key));
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const order = rows.map((_, index) => index);
  let matching = order;
  let limit = body.rows.length;

  function compare(column, number, factor) {
    const collator = new Intl.Collator();
    return (first, second) => {
      const [a, b] = [keys[first][column], keys[second][column]];
      if (a === "" || b === "") return a === b ? first - second : a === "" ? 1 : -1;
      const comparison = number ? Number(a) - Number(b) : collator.compare(a, b);
      return factor * comparison || first - second;
    };
  }

  function show() {
    const words = filters.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = Array.from(filters.querySelectorAll("select")).filter((item) => item.value);
    matching = order.filter((index) => words.every((word) => texts[index].includes(word))
      && chosen.every((item) => rows[index].dataset[item.name] === item.value));
    body.replaceChildren(...matching.slice(0, limit).map((index) => rows[index]));
    const hidden = Math.max(0, matching.length - limit);
    count.textContent = `${matching.length} of ${rows.length} rows${hidden ? `, the first ${limit} shown` : ""}`;
    more.hidden = !hidden;
  }

  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.hasAttribute("aria-sort") && other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      order.sort(compare(column, head.classList.contains("number"), down ? -1 : 1));
      show();
    });
  });
  filters.addEventListener("input", show);
  filters.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    limit = rows.length;
    show();
  });
  filters.hidden = false;
  show();

  const theme = document.getElementById("theme");
  const prefers = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme || (prefers.matches ? "dark" : "light")) === "dark";
  theme.hidden = false;
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    drawn.forEach(draw);
  });
  prefers.addEventListener("change", () => drawn.forEach(draw));

  async function unpack(id) {
    const text = document.getElementById(id).textContent;
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  let content = null;
  function data() {
    content ??= unpack("data").then(JSON.parse);
    return content;
  }
  let script = null;
  function plotly() {
    script ??= unpack("plotly").then((text) => {
      const element = document.createElement("script");
      element.textContent = text;
      document.head.append(element);
      return window.Plotly;
    });
    return script;
  }

  const drawn = new Set();
  async function draw(name) {
    drawn.add(name);
    const place = document.querySelector(`div.plot[data-plot="${name}"]`);
    const [{ plots }, Plotly] = await Promise.all([data(), plotly()]);
    const select = document.querySelector(`select[data-plot="${name}"]`);
    const figure = plots[name][select ? select.value : Object.keys(plots[name])[0]];
    const style = getComputedStyle(document.documentElement);
    const [ink, line] = [style.getPropertyValue("--ink").trim(), style.getPropertyValue("--line").trim()];
    const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true };
    const layout = {
      ...figure.layout, font: { color: ink, family: "system-ui, sans-serif" }, margin: { l: 60, r: 16, t: 16, b: 56 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
      legend: { orientation: "h", y: 0, yanchor: "bottom", yref: "container" },
    };
    for (const key of Object.keys(layout).filter((item) => /^[xy]axis/.test(item))) {
      layout[key] = { ...axis, ...layout[key] };
    }
    if (!place.dataset.drawn) place.replaceChildren();
    await Plotly.react(place, figure.data, layout, { responsive: true, displaylogo: false });
    place.dataset.drawn = "true";
    place.closest("figure").querySelectorAll(".static, .tools button").forEach((element) => element.remove());
  }
  document.querySelectorAll(".tools").forEach((tools) => {
    tools.hidden = false;
    tools.querySelectorAll("select").forEach((item) => item.addEventListener("change", () => draw(item.dataset.plot)));
    tools.querySelector("button").addEventListener("click", (event) => draw(event.target.dataset.plot));
  });

  function line(list, name, value) {
    const item = document.createElement("li");
    if (value instanceof Node) item.append(`${name}: `, value);
    else item.textContent = value === undefined ? name : `${name}: ${value}`;
    list.append(item);
  }
  body.addEventListener("toggle", async (event) => {
    const details = event.target;
    if (!details.open || details.childElementCount > 1) return;
    const row = (await data()).rows[Number(details.dataset.row)];
    const list = document.createElement("ul");
    for (const [name, place] of Object.entries(row.links)) {
      const link = document.createElement("a");
      link.href = place;
      link.textContent = place.split("/").pop();
      line(list, name, link);
    }
    const command = document.createElement("code");
    command.textContent = row.command;
    line(list, "command", command);
    if (row.stale) line(list, "stale", row.stale);
    if (row.by) line(list, "parity checked by", row.by);
    row.reasons.forEach((reason) => line(list, reason));
    if (row.accuracy) line(list, "accuracy", `on ${row.accuracy.images} images of ${row.accuracy.data}, run by ${row.accuracy.on}`);
    Object.values(row.flags).forEach((flag) => line(list, "interference", flag));
    const unknown = Object.entries(row.unknown);
    if (unknown.length) line(list, "operators of unknown cost", unknown.map(([name, times]) => `${name} ${times}`).join(", "));
    if (row.created) line(list, "measured", row.created.slice(0, 16).replace("T", " ") + " UTC");
    details.append(list);
  }, true);
})();
