"use strict";
const at = (id) => document.getElementById(id);
const PANES = ["unsteered", "steered", "random"];
const POSITIONS = { generation: "last prompt token and answer", all: "every token", prompt: "prompt", decode: "answer only", first_1: "last prompt token" };
let about, key = "", run = null, again = 0;
const got = { unsteered: [], steered: [], random: [] };

function made(tag, text, cls) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (cls) node.className = cls;
  return node;
}

function say(text, bad) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", Boolean(bad));
}

async function ask(path, value, signal) {
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (value !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method: value === undefined ? "GET" : "POST", headers, signal, body: value === undefined ? undefined : JSON.stringify(value) });
  if (answer.ok) return answer;
  let words = `the server answers ${answer.status}`;
  try { words = (await answer.json()).error.message; } catch { /* not ours */ }
  const error = new Error(words);
  error.status = answer.status;
  throw error;
}

// -- what the dial says ---------------------------------------------------------------------------

function steering() {
  const layers = {};
  for (const box of document.querySelectorAll(".layer")) {
    const factor = box.querySelector("[type=checkbox]").checked ? Number(box.querySelector("[type=range]").value) : 0;
    if (factor !== 1) layers[box.dataset.layer] = factor;
  }
  const found = { coef: Number(at("coef").value), positions: at("positions").value };
  if (at("gate").value !== "plan") found.gate = at("gate").value;
  if (Object.keys(layers).length) found.layers = layers;
  return found;
}

function show() {
  at("coef-shown").textContent = Number(at("coef").value).toFixed(2);
  for (const box of document.querySelectorAll(".layer")) {
    box.querySelector("output").textContent = `× ${Number(box.querySelector("[type=range]").value).toFixed(2)}`;
    box.classList.toggle("off", !box.querySelector("[type=checkbox]").checked);
  }
}

function turned() {
  show();
  at("lamps-note").hidden = !at("gate").selectedOptions[0].dataset.gated;
  clearTimeout(again);
  if (run && run.id) turn(run);
  else if (!run && got.steered.length) again = setTimeout(answer, 200);
}

// One request at a time, and the last setting always arrives.
async function turn(one) {
  if (one.turning) { one.more = true; return; }
  one.turning = true;
  do {
    one.more = false;
    try {
      await ask("dial/turn", { id: one.id, steering: steering() });
    } catch (error) {
      if (error.status === 404) {  // it ended meanwhile
        one.late = true;
        if (!run) { one.late = false; again = setTimeout(answer, 50); }
      } else say(error.message, true);
    }
  } while (one.more);
  one.turning = false;
}

// -- answers --------------------------------------------------------------------------------------

function clear() {
  for (const name of PANES) {
    got[name] = [];
    at(`text-${name}`).replaceChildren();
    at(`same-${name}`).textContent = "";
  }
  read(null);
}

// How active each layer's feature was where a token of the steered answer was chosen.
function read(one) {
  for (const other of document.querySelectorAll(".read")) other.classList.remove("read");
  at("read-what").hidden = !one;
  if (one) {
    at("read-what").textContent = `Activations before and after steering, where ${JSON.stringify(one.node.textContent)} was chosen; click another token of the steered answer, or move to it with the arrow keys, to see its own.`;
    if (one !== got.steered.at(-1)) one.node.classList.add("read");
  }
  for (const box of document.querySelectorAll(".layer")) {
    const acts = one && one.acts[box.dataset.layer], line = box.querySelector(".acts");
    line.hidden = !acts;
    if (!acts) continue;
    const most = Math.max(...Object.values(one.acts).flat(), 1e-9), open = one.on.includes(Number(box.dataset.layer));
    line.querySelector(".act-numbers").textContent = `${acts[0].toPrecision(3)} → ${acts[1].toPrecision(3)}${open ? "" : " (not steered)"}`;
    line.querySelectorAll("i").forEach((bar, n) => { bar.style.width = `${(100 * acts[n]) / most}%`; });
  }
}

// With the keyboard, from the token whose activations are shown: the newest, until one is chosen.
function moved(event) {
  const list = got.steered, at_ = list.findIndex((one) => one.node.classList.contains("read"));
  const now = at_ < 0 ? list.length - 1 : at_;
  const to = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: list.length - 1 }[event.key];
  if (to === undefined || !list[to]) return;
  event.preventDefault();
  read(list[to]);
}

function mark(name, n) {
  const own = got[name][n], other = got.unsteered[n];
  if (!own || name === "unsteered") return;
  own.node.classList.toggle("differs", Boolean(other ? other.id !== own.id : got.unsteered.over));
}

function token(value) {
  const node = made("span", value.text);
  const steered = value.pane !== "unsteered", gated = at("gate").selectedOptions[0].dataset.gated;
  if (steered && gated) {
    const lamp = value.on.length === about.layers.length ? "all" : value.on.length ? "some" : "none";
    node.classList.add("lamp", lamp);
  }
  const open = steered && gated ? `, open in ${value.on.length ? `layer ${value.on.join(", ")}` : "no layer"}` : "";
  node.title = `token ${value.id}${open}` + (steered ? `, dial ${value.dial}` : "");
  const list = got[value.pane], one = { id: value.id, node, on: value.on, acts: value.acts };
  const follows = !document.querySelector(".read");
  list.push(one);
  if (value.pane === "steered" && follows) read(one);
  if (value.pane === "steered") node.addEventListener("click", () => read(one));
  at(`text-${value.pane}`).append(node);
  const n = list.length - 1;
  for (const name of value.pane === "unsteered" ? PANES : [value.pane]) mark(name, n);
}

function over(value) {
  got[value.pane].over = true;
  if (value.pane === "unsteered") for (const name of PANES) got[name].forEach((_, n) => mark(name, n));
  for (const name of PANES) {
    if (name === "unsteered" || !got[name].over || !got.unsteered.over) continue;
    const same = got[name].length === got.unsteered.length && got[name].every((one, n) => one.id === got.unsteered[n].id);
    at(`same-${name}`).textContent = same ? "the same answer as unsteered" : "another answer than unsteered";
  }
}

async function answer() {
  clearTimeout(again);
  if (!about || !at("form").reportValidity()) return;
  if (run) { run.late = true; stop(); return; }
  const one = run = { abort: new AbortController() };
  clear();
  at("stop").disabled = false;
  say("waiting for the model ...");
  const wanted = {
    prompt: at("prompt").value, template: at("template").checked, steering: steering(),
    max_tokens: Number(at("tokens").value), draw: Number(at("draw").value),
  };
  try {
    const stream = await ask("dial/run", wanted, one.abort.signal);
    let rest = "";
    const reader = stream.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const [head, data] = part.split("\n");
        heard(one, head.slice("event: ".length), JSON.parse(data.slice("data: ".length)), wanted);
      }
    }
    if (!one.over) say("the server went away", true);
  } catch (error) {
    say(error.message === "Failed to fetch" ? "the server does not answer: is it still running?" : error.message, true);
  }
  run = null;
  at("stop").disabled = true;
  performance.mark("answered");
  if (one.late && !one.kept) again = setTimeout(answer, 50);
}

function heard(one, kind, value, wanted) {
  if (kind === "begin") {
    one.id = value.id;
    if (value.waiting) say(`${value.waiting} before you ...`);
    if (JSON.stringify(steering()) !== JSON.stringify(wanted.steering)) turn(one);
  } else if (kind === "token") {
    say("writing ...");
    token(value);
  } else if (kind === "done") {
    over(value);
    if (!about.none && value.pane !== "random" && PANES.every((name) => name === "random" || got[name].over) && !got.random.length) say("reading the SAEs for the random features ...");
  } else {
    one.over = true;
    if (kind === "error") say(value.text, true);
    else say(value.text || "done");
    if (value.random) at("random-what").textContent = value.random;
    if (value.instead) at("random-what").title = value.instead;
  }
}

async function stop() {
  const one = run;
  if (!one) return;
  one.kept = !one.late;
  try {
    if (one.id) await ask("dial/stop", { id: one.id });
    else one.abort.abort();
  } catch (error) {
    if (error.status !== 404) say(error.message, true);
  }
}

// -- copy as command ------------------------------------------------------------------------------

function command() {
  const prompt = at("prompt").value, chat = about.chat && at("template").checked;
  const value = { model: about.model, ...(chat ? { messages: [{ role: "user", content: prompt }] } : { prompt }), max_tokens: Number(at("tokens").value), steering: steering() };
  const quoted = JSON.stringify(value).replaceAll("'", "'\\''");
  const bearer = key ? ` -H "Authorization: Bearer $CORRSTEER_KEY"` : "";
  return `curl ${location.origin}/v1/${chat ? "chat/completions" : "completions"} -H 'Content-Type: application/json'${bearer} -d '${quoted}'`;
}

async function copy() {
  try {
    await navigator.clipboard.writeText(command());
    say("copied");
  } catch {
    say(command());
  }
}

// -- the page -------------------------------------------------------------------------------------

function row(list, name, value) {
  if (value === undefined || value === null || value === "" || (Array.isArray(value) && !value.length)) return;
  const shown = made("dd");
  if (Array.isArray(value)) for (const text of value) shown.append(made("code", text.replaceAll("\n", "\\n")));
  else shown.append(value);
  list.append(made("dt", name), shown);
}

function layer(one) {
  const box = made("article", undefined, "layer"), card = one.card;
  box.dataset.layer = one.layer;
  const turn = made("div", undefined, "turn"), label = made("label", undefined, "check");
  const on = document.createElement("input"), range = document.createElement("input");
  on.type = "checkbox";
  on.checked = true;
  const many = one.several ? ` and ${one.several} more` : "";
  const name = one.feature < 0 ? "vector" : `feature ${one.feature}${many}`;
  label.append(on, `layer ${one.layer}`);
  Object.assign(range, { type: "range", min: 0, max: 2, step: 0.05, value: 1 });
  range.setAttribute("aria-label", `Factor of layer ${one.layer}`);
  on.setAttribute("aria-label", `Layer ${one.layer}, ${name}`);
  turn.append(label, range, made("output"));
  const list = made("dl");
  row(list, "feature", name);
  row(list, "class", card.class);
  row(list, "because", card.why);
  row(list, "described", card.description);
  row(list, "score", `${one.r.toFixed(3)}, norm ${one.norm.toPrecision(3)}` + (card.freq === undefined ? "" : `, active in ${(100 * card.freq).toFixed(0)} %`));
  row(list, "fires on", card.fires_on);
  row(list, "promotes", card.promotes);
  row(list, "suppresses", card.suppresses);
  if (card.link && card.link.startsWith("https://")) {
    const link = made("a", "Neuronpedia");
    Object.assign(link, { href: card.link, rel: "noreferrer noopener", target: "_blank" });
    row(list, "page", link);
  }
  const acts = made("div", undefined, "acts"), bars = made("span", undefined, "act-bars"), shown = made("span");
  acts.hidden = true;
  bars.append(made("i"), made("i"));
  shown.append(made("span", "", "act-numbers"), bars);
  acts.append(made("span", "activation"), shown);
  box.append(turn, acts, list);
  on.addEventListener("input", turned);
  range.addEventListener("input", turned);
  return box;
}

function reset() {
  at("coef").value = about.coef;
  at("positions").value = about.positions;
  at("gate").value = "plan";
  for (const input of document.querySelectorAll(".layer [type=range]")) input.value = 1;
  for (const input of document.querySelectorAll(".layer [type=checkbox]")) input.checked = true;
  turned();
}

async function start() {
  try {
    about = await (await ask("dial/about")).json();
  } catch (error) {
    const locked = error.status === 401;
    at("locked").hidden = !locked;
    say(!locked ? error.message : key ? "that is not this server's key" : "type this server's key", true);
    return;
  }
  at("locked").hidden = true;
  const facts = [about.model, about.task, `${about.operator} in ${about.layers.length} layers`, `plan's dial ${about.coef}`, about.gate && `gate ${about.gate}`];
  at("meta").replaceChildren(...facts.filter(Boolean).map((text) => made("span", text)));
  for (const one of about.questions) {
    const option = made("option", `${one.id}: ${one.prompt.replaceAll("\n", " ").slice(0, 90)}`);
    option.value = one.id;
    at("question").append(option);
  }
  at("question-row").hidden = !about.questions.length;
  for (const [name, words] of Object.entries({ ...POSITIONS, [about.positions]: POSITIONS[about.positions] || about.positions })) {
    const option = made("option", `${name}: ${words}`);
    option.value = name;
    at("positions").append(option);
  }
  for (const { name, words } of about.gates) {
    const option = made("option", name === "plan" && about.gate ? `${words}: ${about.gate}` : words);
    option.value = name;
    if (name !== "always" && (name !== "plan" || about.gate)) option.dataset.gated = "1";
    at("gate").append(option);
  }
  Object.assign(at("tokens"), { max: about.most, value: about.tokens });
  at("template-row").hidden = !about.chat;
  if (about.none) at("random-sub").textContent = about.none;
  at("layers").replaceChildren(...about.layers.map(layer));
  if (about.coef < -1) at("coef").min = about.coef;
  if (about.coef > 3) at("coef").max = about.coef;
  reset();
  if (about.questions.length) {
    at("question").value = about.questions[0].id;
    chosen();
  }
  say("");
}

function chosen() {
  const found = about.questions.find((one) => one.id === at("question").value);
  if (!found) return;
  at("prompt").value = found.prompt;
  at("template").checked = false;  // it is in it already
}

at("question").addEventListener("change", chosen);
at("prompt").addEventListener("input", () => { at("question").value = ""; });
for (const id of ["coef", "positions", "gate"]) at(id).addEventListener("input", turned);
at("draw").addEventListener("change", () => { if (!run && got.steered.length) answer(); });
at("form").addEventListener("submit", (event) => { event.preventDefault(); answer(); });
at("stop").addEventListener("click", stop);
at("text-steered").addEventListener("keydown", moved);
at("reset").addEventListener("click", reset);
at("copy").addEventListener("click", copy);
at("locked").addEventListener("submit", (event) => { event.preventDefault(); key = at("key").value; start(); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); answer(); }
});
start();
