"use strict";
(function () {
  const root = document.documentElement;
  const json = (id) => JSON.parse(document.getElementById(id).textContent);

  function element(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  // -- figures ----------------------------------------------------------------------------------

  // Figures name CSS variables as colours; filling them in here lets a figure follow its page.
  function coloured(value, style) {
    if (typeof value === "string") {
      const name = /^var\((--[a-z-]+)\)$/.exec(value);
      return name ? style.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((v) => coloured(v, style));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v, style)]));
  }

  // Evaluating Plotly takes longer than all the rest, so the page is there to read before that.
  function loadPlotly() {
    if (window.Plotly) return;
    const script = element("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.head.append(script);
  }

  function draw(place, width) {
    const spec = coloured(json(place.dataset.spec), getComputedStyle(root));
    if (width) spec.layout.width = width;
    Plotly.react(place, spec.data, spec.layout, { displayModeBar: false, responsive: !width });
  }

  // Those in view first, then one at a time as the browser finds time: a page of many figures
  // opens no slower than one of few, and answers while they are drawn.
  const places = [...document.querySelectorAll(".plot")];
  let waiting = [], drawing = false;

  function next() {
    drawing = waiting.length > 0;
    if (!drawing) return performance.mark("all figures drawn");
    draw(waiting.shift());
    requestIdleCallback(next, { timeout: 200 });
  }

  function drawAll() {
    const seen = (place) => {
      const box = place.getBoundingClientRect();
      return box.bottom > 0 && box.top < innerHeight;
    };
    places.filter(seen).forEach((place) => draw(place));
    performance.mark("figures in view drawn");
    waiting = places.filter((place) => !seen(place));
    if (!drawing) next();
  }

  addEventListener("load", () => requestAnimationFrame(() => setTimeout(() => {
    loadPlotly();
    drawAll();
  })));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    if (window.Plotly) drawAll();
  });
  addEventListener("beforeprint", () => {
    loadPlotly();
    root.dataset.print = "";
    waiting = [];
    for (const place of places) draw(place, 640);
    for (const numbers of document.querySelectorAll("details.paper")) numbers.open = true;
  });
  addEventListener("afterprint", () => { delete root.dataset.print; drawAll(); });

  // -- data -------------------------------------------------------------------------------------

  function csv(table) {
    const cell = (value) => {
      if (value === null) return "";
      if (typeof value !== "string") return String(value);
      // A spreadsheet computes a text that begins like a formula.
      const text = /^[=+\-@\t\r\n]/.test(value) ? "'" + value : value;
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return [table.columns, ...table.rows].map((row) => row.map(cell).join(",") + "\r\n").join("");
  }

  function table(id) {
    if (id !== "examples") return json(id + "-data");
    const columns = ["id", "kind", "from", "to", "prompt", "baseline", "steered", "gold"];
    return { columns, rows: json("example-data").map((e) => columns.map((c) => e[c])) };
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.csv");
    if (!button) return;
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([csv(table(button.dataset.csv))], { type: "text/csv" }));
    link.download = button.dataset.csv + ".csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  });

  // -- examples ---------------------------------------------------------------------------------

  if (!document.getElementById("example-data")) return;

  const PAGE = 50, LONG = 600, WORDS = 200;
  const LABELS = { moved: "still not right", text: "text changed", same: "unchanged", unrelated: "unrelated prompt" };
  const examples = json("example-data");
  const haystack = examples.map((e) =>
    [e.id, e.prompt, e.baseline, e.steered, e.gold].join("\n").toLowerCase());
  const list = document.getElementById("example-list");
  const more = document.getElementById("example-more");
  const count = document.getElementById("example-count");
  const search = document.getElementById("example-search");
  let matching = [], shown = 0;

  // Both texts in pieces [text, whether only this one has it], by the longest common subsequence
  // of words; null where there is nothing to mark or too much to compare.
  function compared(before, after) {
    const [a, b] = [before, after].map((text) => text.split(/(\s+)/));
    if (before === after || !before.trim() || !after.trim()) return null;
    if (Math.max(before.length, after.length) > LONG || Math.max(a.length, b.length) > WORDS) return null;
    const common = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
    for (let i = a.length - 1; i >= 0; i--)
      for (let j = b.length - 1; j >= 0; j--)
        common[i][j] = a[i] === b[j] ? common[i + 1][j + 1] + 1
          : Math.max(common[i + 1][j], common[i][j + 1]);
    const left = [], right = [];
    let i = 0, j = 0;
    while (i < a.length || j < b.length) {
      if (i < a.length && j < b.length && a[i] === b[j]) {
        left.push([a[i++], false]);
        right.push([b[j++], false]);
      } else if (j >= b.length || (i < a.length && common[i + 1][j] >= common[i][j + 1])) {
        left.push([a[i++], true]);
      } else {
        right.push([b[j++], true]);
      }
    }
    return [left, right];
  }

  // Long text shows its beginning and unfolds on demand, so that 100 kB cost nothing unasked.
  function textBox(text, pieces) {
    const box = element("div"), body = element("p", "text", pieces ? "" : text || "(empty)");
    body.dir = "auto";
    box.append(body);
    for (const [piece, changed] of pieces || [])
      body.append(changed && piece.trim() ? element("mark", "changed", piece) : piece);
    if (text.length > LONG) {
      const button = element("button", "fold");
      button.type = "button";
      let open = true;
      button.addEventListener("click", () => {
        open = !open;
        body.textContent = open ? text : text.slice(0, LONG).replace(/[\ud800-\udbff]$/, "") + " …";
        button.textContent = open ? "Show less" : `Show all ${text.length.toLocaleString("en")} characters`;
        button.setAttribute("aria-expanded", String(open));
      });
      button.click();
      box.append(button);
    }
    return box;
  }

  function card(e) {
    const node = element("article", "example " + e.kind);
    const head = element("h3", "", LABELS[e.kind] || e.kind);
    if (e.from) head.append(element("span", "", e.from === e.to ? e.from : `${e.from} → ${e.to}`));
    head.append(element("span", "", e.id));
    const answers = element("dl", "answers");
    const [before, after] = compared(e.baseline, e.steered) || [];
    const parts = [["Baseline", e.baseline, before], ["Steered", e.steered, after]];
    if (e.gold) parts.push(["Gold", e.gold]);
    for (const [label, text, pieces] of parts) {
      const pair = element("div"), value = element("dd");
      value.append(textBox(text, pieces));
      pair.append(element("dt", "", label), value);
      answers.append(pair);
    }
    node.append(head, textBox(e.prompt), answers);
    return node;
  }

  function grow() {
    const next = matching.slice(shown, shown + PAGE);
    list.append(...next.map((i) => card(examples[i])));
    shown += next.length;
    more.hidden = shown >= matching.length;
    const all = matching.length === examples.length ? "" : ` matching, of ${examples.length.toLocaleString("en")}`;
    count.textContent = `${shown.toLocaleString("en")} shown of ${matching.length.toLocaleString("en")}${all}`;
  }

  function filter() {
    const words = search.value.toLowerCase();
    const kind = document.querySelector("#example-filter input[name=kind]:checked").value;
    matching = [];
    examples.forEach((e, i) => {
      const fits = !kind || e.kind === kind || (kind === "invalid" && (e.from === kind || e.to === kind));
      if (fits && haystack[i].includes(words)) matching.push(i);
    });
    shown = 0;
    list.replaceChildren();
    grow();
  }

  let soon;
  const form = document.getElementById("example-filter");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { clearTimeout(soon); soon = setTimeout(filter, 80); });
  more.addEventListener("click", grow);
  form.reset();
  filter();
})();
