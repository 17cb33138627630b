// Draws what a Stream knows. All texts are set as texts, never as markup: they are names and errors of others.
"use strict";

const $ = id => document.getElementById(id);
const PAGES = ["now", "tasks", "time", "data", "log"];
let page = "now", paused = false, chosen = "", drawn = false;

function make(tag, text, cls) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (cls) made.className = cls;
  return made;
}

// --- numbers for people ---

const number = n => Number(n || 0).toLocaleString("en");
function bytes(n) {
  if (n === undefined || n === null) return "?";
  for (const unit of ["B", "KiB", "MiB", "GiB"]) { if (n < 1023.95) return (unit === "B" ? n.toFixed(0) : n.toFixed(1)) + " " + unit; n /= 1024; }
  return n.toFixed(1) + " TiB";
}
function duration(s) {
  if (!isFinite(s) || s < 0) return "?";
  if (s < .001) return (s * 1e6).toFixed(0) + " µs";
  if (s < 1) return (s * 1e3).toFixed(s < .01 ? 1 : 0) + " ms";
  if (s < 60) return s.toFixed(s < 10 ? 1 : 0) + " s";
  const m = Math.floor(s / 60), h = Math.floor(m / 60), two = n => String(n).padStart(2, "0");
  return h ? h + ":" + two(m % 60) + ":" + two(Math.floor(s % 60)) : m + ":" + two(Math.floor(s % 60));
}
const running = s => s < 60 ? Math.max(0, s).toFixed(1) + " s" : duration(s);
const clock = t => t ? new Date(t * 1000).toLocaleTimeString("en-GB") : "";
const rate = r => r ? r.toPrecision(3) * 1 + "/s" : "";
// A name has the same colour everywhere on the page: the one of its hash, or the next that is free. Red is for failures.
const HUES = [210, 40, 145, 285, 75, 185, 320, 255, 110, 55];
const hues = new Map();
function hue(name) {
  if (!hues.has(name)) {
    let h = 2166136261;
    for (let i = 0; i < name.length; i++) h = Math.imul(h ^ name.charCodeAt(i), 16777619);
    if (hues.size > 2000) hues.clear();
    const taken = new Set(hues.values()), first = (h >>> 0) % HUES.length;
    const free = HUES.findIndex((_, i) => !taken.has(HUES[(first + i) % HUES.length]));
    hues.set(name, HUES[(first + Math.max(0, free)) % HUES.length]);
  }
  return hues.get(name);
}

// --- rows that are reused, so that the focus and the scroll position stay ---

function fill(table, rows, onrow) {
  const body = table.tBodies[0], columns = table.tHead.rows[0].cells;
  rows.forEach((cells, i) => {
    const row = body.rows[i] && !body.rows[i].firstChild.matches(".none") ? body.rows[i] : body.insertRow(i);
    cells.forEach((cell, j) => {
      const td = row.cells[j] || row.insertCell(j);
      const cls = columns[j].className + (cell && cell.cls ? " " + cell.cls : "");
      if (td.className !== cls) td.className = cls;
      if (cell && cell.node) td.replaceChildren(cell.node);
      else { const text = String(cell && cell.text !== undefined ? cell.text : cell ?? ""); if (td.textContent !== text) td.textContent = text; }
    });
    if (onrow) onrow(row, i);
  });
  while (body.rows.length > rows.length) body.deleteRow(-1);
  if (!rows.length) { const td = body.insertRow().insertCell(); td.colSpan = columns.length; td.className = "none"; td.textContent = "nothing"; }
}
const failed = n => n ? { text: number(n), cls: "bad" } : "0";

// --- now ---

const shown = new Map();  // by machine: its elements
function drawNow(store) {
  const machines = store.table("machines"), workers = store.table("workers"), box = $("machines");
  const of = new Map([...machines.keys()].map(address => [address, []]));
  for (const [lane, row] of workers) { const at = lane.lastIndexOf("#"), list = of.get(lane.slice(0, at)); if (list) list.push([+lane.slice(at + 1), row]); }
  const many = machines.size > 12 || workers.size > 96;
  box.classList.toggle("many", many);
  for (const [address, parts] of shown) if (!machines.has(address)) { parts.box.remove(); shown.delete(address); }
  const now = present(store) + LATE_SECONDS;
  for (const [address, machine] of [...machines].sort((a, b) => compare(a[1].name, b[1].name))) {
    let parts = shown.get(address);
    if (!parts) shown.set(address, parts = machineParts());
    if (parts.box.parentNode !== box) box.append(parts.box);
    const list = of.get(address).sort((a, b) => a[0] - b[0]), busy = list.filter(w => w[1][0]).length;
    put(parts.name, machine.name);
    put(parts.busy, busy + " of " + machine.size + " busy" + (machine.rate ? " · " + rate(machine.rate) : ""));
    put(parts.more, "store " + bytes(machine.store) + " · in " + bytes(machine.received) + "/s · out " + bytes(machine.sent) + "/s");
    parts.box.title = address + (machine.host ? ", host " + machine.host : "") + (machine.python ? ", Python " + machine.python : "");
    meter(parts.cpu, machine.cpu, 100, machine.cpu === undefined ? "?" : machine.cpu.toFixed(0) + " %");
    meter(parts.memory, machine.memory, machine.memory_total, bytes(machine.memory) + (many ? "" : " of " + bytes(machine.memory_total)));
    while (parts.cells.children.length > list.length) parts.cells.lastChild.remove();
    list.forEach(([n, row], i) => cell(parts.cells.children[i] || parts.cells.appendChild(newCell()), n, row, now));
  }
  if (!machines.size) put(box, "no machine has joined: start minidask-worker on some"); else if (box.firstChild.nodeType === 3) box.firstChild.remove();
  fill($("clients"), [...store.table("clients").values()].map(([name, waiting, running, finished, bad, within, speed]) => {
    const all = waiting + running + finished, bar = make("div", undefined, "progress"), i = bar.appendChild(make("i"));
    i.style.width = (all ? 100 * finished / all : 0) + "%";
    bar.title = number(finished) + " of " + number(all);
    const left = waiting + running && speed > .001 ? duration((waiting + running) / speed) : "";
    return [name, { node: bar }, number(waiting), number(running), number(finished), failed(bad), number(within), rate(speed), left];
  }));
  const calls = [...store.table("calls")].sort((a, b) => b[1][2] - a[1][2] || b[1][5] - a[1][5] || b[1][0] - a[1][0]);
  fill($("calls"), calls.map(([name, [over, bad, running, mean, most, speed]]) =>
    [name, number(running), number(over), failed(bad), rate(speed), over ? duration(mean) : "", over ? duration(most) : ""]));
}
const compare = (a, b) => String(a).localeCompare(String(b), "en", { numeric: true });
function put(element, text) { if (element.textContent !== text) element.textContent = text; }
function machineParts() {
  const box = make("article", undefined, "machine"), left = box.appendChild(make("div"));
  const parts = { box, name: left.appendChild(make("b")), busy: left.appendChild(make("div", "", "figures")) };
  const meters = left.appendChild(make("div", undefined, "meters"));
  for (const [key, text] of [["cpu", "CPU"], ["memory", "Memory"]]) {
    meters.append(make("span", text));
    parts[key] = [meters.appendChild(make("div", undefined, "meter")).appendChild(make("i")), meters.appendChild(make("span"))];
  }
  parts.more = left.appendChild(make("div", "", "figures more"));
  parts.cells = box.appendChild(make("div", undefined, "cells"));
  return parts;
}
function meter([bar, text], value, most, shownText) {
  bar.style.width = (most ? Math.min(100, 100 * (value || 0) / most) : 0) + "%";
  put(text, shownText);
}
function newCell() {
  const made = make("button", undefined, "cell");
  made.type = "button";
  made.append(make("span"), make("span"));
  made.addEventListener("click", () => { if (made.dataset.key) tell(made.dataset.key); });
  return made;
}
function cell(element, n, [name, began, memory, key, over, bad, importing], now) {
  const what = [name, importing && "importing " + importing].filter(Boolean).join(", ") || "idle";
  const cls = name ? "cell busy" : "cell";
  if (element.className !== cls) element.className = cls;
  if (name) element.style.setProperty("--hue", hue(name));
  const took = name ? running(now - began) : "idle";
  put(element.children[0], what);
  put(element.children[1], name ? took + (memory ? " · " + memory + " MiB" : "") : number(over) + " ended" + (bad ? ", " + number(bad) + " failed" : ""));
  const title = "worker " + n + ": " + what + (name ? " for " + took : "") + "; " + number(over) + " calls ended, " + number(bad) + " failed";
  if (element.title !== title) { element.title = title; element.setAttribute("aria-label", title); }
  if (element.dataset.key !== key) element.dataset.key = key;
  element.tabIndex = key ? 0 : -1;
}

// --- tasks ---

function drawTasks(store) {
  const tasks = store.tasks;
  if (!tasks) return;
  const names = store.table("machines"), q = $("query").value;
  put($("count"), number(tasks.count) + (q ? " match of " : " of ") + number(tasks.kept) + " kept" + (tasks.count > tasks.rows.length ? ", the last " + tasks.rows.length + " shown" : ""));
  const kinds = { failed: "bad", done: "good", running: "warn" };
  fill($("found"), tasks.rows.map(([key, name, state, machine, worker, client, began, seconds, text]) =>
    [name, { text: state, cls: kinds[state] }, (names.get(machine) || {}).name || machine, worker < 0 ? "" : worker, clock(began), seconds ? duration(seconds) : "", text]),
  (row, i) => { row.dataset.key = tasks.rows[i][0]; row.tabIndex = 0; row.classList.toggle("chosen", row.dataset.key === chosen); });
}
async function tell(key) {
  if (page !== "tasks") location.hash = "/tasks";
  chosen = key;
  for (const row of $("found").tBodies[0].rows) row.classList.toggle("chosen", row.dataset.key === key);
  let story = null;
  try {
    const answer = await fetch("task?key=" + encodeURIComponent(key));
    story = answer.ok ? await answer.json() : null;
  } catch { story = null; }
  if (chosen !== key) return;
  const box = $("story"), told = JSON.stringify(story);
  if (!box.hidden && box.told === told) return;  // who reads it keeps the place
  box.told = told;
  box.hidden = false;
  box.replaceChildren();
  const close = box.appendChild(make("button", "Close"));
  close.type = "button";
  close.addEventListener("click", closeStory);
  if (!story) { box.append(make("p", "Nothing is kept of this task any more.")); return; }
  box.append(make("h2", story.name));
  if (story.why) { const why = make("p", "Now: " + story.why); why.id = "why"; box.append(why); }
  const list = box.appendChild(make("dl"));
  const rows = [["State", story.state], ["Number", story.key], ["Client", story.client], ["Machine", story.machine], ["Worker", story.worker < 0 ? "" : story.worker],
    ["Within", story.parent], ["Submitted", clock(story.submitted)], ["Began", clock(story.began)], ["Took", story.seconds ? duration(story.seconds) : ""],
    ["CPU", story.cpu >= 0 ? duration(story.cpu) : ""], ["Peak memory", story.memory ? bytes(story.memory) : ""]];
  for (const [name, value] of rows) if (value !== "") list.append(make("dt", name), make("dd", value));
  if (story.text) box.append(make("pre", story.text, story.state === "failed" ? "bad" : ""));
  box.append(make("h2", "Steps"));
  const steps = box.appendChild(make("ol"));
  for (const [when, what, text] of story.steps) steps.append(make("li", [clock(when), what, text].filter(Boolean).join(" ")));
}
function closeStory() {
  const row = [...$("found").tBodies[0].rows].find(row => row.dataset.key === chosen);
  chosen = "";
  $("story").hidden = true;
  if (row) { row.classList.remove("chosen"); row.focus(); }
}

// --- time ---

const LATE_SECONDS = .5;  // so much earlier than the last machine the others may have told: what is later would look idle
const present = store => (store.totals.told || Date.now() / 1000) - LATE_SECONDS;  // the server's clock: this one may differ
const view = { live: true, end: 0, span: 60, hits: [], lanes: [] };
function drawTime(store) {
  const box = $("lanes"), canvas = $("canvas"), workers = store.table("workers"), names = store.table("machines");
  const parts = lane => { const at = lane.lastIndexOf("#"); return [(names.get(lane.slice(0, at)) || {}).name || lane.slice(0, at), +lane.slice(at + 1)]; };
  const lanes = [...new Set([...workers.keys(), ...store.spans.keys()])].map(lane => [lane, ...parts(lane)]);
  lanes.sort((a, b) => compare(a[1], b[1]) || a[2] - b[2]);
  const width = box.clientWidth, height = box.clientHeight, label = 150, foot = 20;
  const each = Math.max(4, Math.min(26, Math.floor((height - foot) / Math.max(1, lanes.length))));
  const whole = each * lanes.length + foot;
  $("space").style.height = whole + "px";
  const seen = Math.min(height, whole), ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(seen * ratio)) {
    canvas.width = Math.round(width * ratio); canvas.height = Math.round(seen * ratio);
    canvas.style.width = width + "px"; canvas.style.height = seen + "px";
  }
  const g = canvas.getContext("2d"), style = getComputedStyle(document.documentElement), color = name => style.getPropertyValue(name).trim();
  const now = present(store), dark = color("--back") < "#8";
  if (view.live) view.end = now;
  const from = view.end - view.span, scale = (width - label) / view.span, x = t => label + (t - from) * scale;
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.fillStyle = color("--card"); g.fillRect(0, 0, width, seen);
  g.font = "11px system-ui, 'DejaVu Sans', sans-serif"; g.textBaseline = "middle";
  const first = Math.max(0, Math.floor(box.scrollTop / each)), last = Math.min(lanes.length, Math.ceil((box.scrollTop + seen - foot) / each));
  const legend = new Map();
  Object.assign(view, { each, label, from, scale, lanes, hits: [], top: box.scrollTop });
  let labelled = -99;
  const write = (text, left, y, most, fill) => {
    g.fillStyle = fill; g.save(); g.beginPath(); g.rect(left, y - 8, most, Math.max(each, 12) + 16); g.clip();
    g.fillText(text, left, y + Math.max(each, 12) / 2); g.restore();
  };
  const tint = (name, bad, open) => bad ? color("--bad") : "hsl(" + hue(name) + " 60% " + (dark ? (open ? 36 : 50) : (open ? 74 : 58)) + "%)";
  const bar = (y, row, open) => {
    const a = x(row[1]), b = x(row[1] + row[2]);
    if (b < label || a > width) return;
    const left = Math.max(label, a), wide = Math.max(1, Math.min(width, b) - left - (b - a > 4 ? 1 : 0));
    g.fillStyle = tint(row[0], row[4], open); g.fillRect(left, y, wide, Math.max(2, each - (each > 7 ? 2 : 1)));
    legend.set(row[0], (legend.get(row[0]) || 0) + Math.min(view.end, row[1] + row[2]) - Math.max(from, row[1]));
    if (wide > 40 && each > 12) { g.fillStyle = dark ? "#fff" : "#000"; g.save(); g.beginPath(); g.rect(left, y, wide - 3, each); g.clip(); g.fillText(row[0], left + 3, y + each / 2); g.restore(); }
  };
  const steps = [.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600];
  const step = steps.find(s => s * scale > 90) || 7200, marks = [];
  for (let t = Math.ceil(from / step) * step; t <= view.end; t += step) {
    const d = new Date(t * 1000), ms = step < 1 ? "." + String(d.getMilliseconds()).padStart(3, "0") : "";
    marks.push([x(t), d.toLocaleTimeString("en-GB") + ms]);
    g.fillStyle = color("--idle"); g.fillRect(x(t), 0, 1, seen - foot);
  }
  for (let i = first; i < last; i++) {
    const [lane, machine, n] = lanes[i], y = i * each - box.scrollTop, rows = store.spans.get(lane) || [];
    for (let j = rows.length - 1; j >= 0; j--) { if (rows[j][1] + rows[j][2] < from - 60) break; bar(y, rows[j], false); }
    const busy = workers.get(lane);
    if (busy && busy[0] && now > busy[1]) bar(y, [busy[0], busy[1], now - busy[1], 1, 0, busy[3]], true);
    const head = i === first || lanes[i - 1][1] !== machine;
    if (head) { g.fillStyle = color("--line"); g.fillRect(0, y - .5, width, 1); }
    if (head && y - labelled >= 12) { write(machine, 6, y, label - (each >= 12 ? 34 : 8), color("--text")); labelled = y; }
    if (each >= 12) write(String(n), label - 24, y, 22, color("--muted"));
  }
  g.fillStyle = color("--card"); g.fillRect(0, seen - foot, width, foot);
  g.fillStyle = color("--muted");
  for (const [at, text] of marks) if (at < width - 40) g.fillText(text, at + 3, seen - foot / 2);
  put($("range"), (view.live ? "live, " : "") + duration(view.span) + " to " + clock(view.end) + ", " + lanes.length + " workers");
  const top = [...legend].sort((a, b) => b[1] - a[1]).slice(0, 20).map(([name]) => name), box2 = $("legend");
  if (box2.dataset.names !== top.join("\n")) {
    box2.dataset.names = top.join("\n");
    box2.replaceChildren(...top.map(name => { const made = make("span"), i = made.appendChild(make("i")); i.style.setProperty("--hue", hue(name)); made.append(name); return made; }));
  }
}
function spanAt(event) {
  const box = $("canvas").getBoundingClientRect(), lane = view.lanes[Math.floor((event.clientY - box.top + view.top) / view.each)];
  if (!lane || event.clientX - box.left < view.label) return null;
  const t = view.from + (event.clientX - box.left - view.label) / view.scale, slack = 2 / view.scale, store = stream.store;
  const busy = store.table("workers").get(lane[0]), now = present(store);
  if (busy && busy[0] && t > busy[1] && t <= now) return [lane, [busy[0], busy[1], now - busy[1], 1, 0, busy[3]]];
  const row = (store.spans.get(lane[0]) || []).findLast(row => row[1] - slack <= t && t <= row[1] + row[2] + slack);
  return row ? [lane, row] : [lane, null];
}
function zoom(factor, at = 1) {  // `at`: which part of the width stays where it is
  const before = view.span, after = Math.max(.005, Math.min(86400, before * factor));
  view.end += (after - before) * (1 - at);
  if (at < 1) view.live = false;
  view.span = after;
  draw(true);
}
function pan(part) { view.live = false; view.end += view.span * part; if (view.end >= present(stream.store)) view.live = true; draw(true); }
function timeKey(key) {
  const does = { "+": () => zoom(.5), "=": () => zoom(.5), in: () => zoom(.5), "-": () => zoom(2), out: () => zoom(2), ArrowLeft: () => pan(-.25), left: () => pan(-.25),
    ArrowRight: () => pan(.25), right: () => pan(.25), "0": () => { view.live = true; draw(true); }, live: () => { view.live = true; draw(true); } }[key];
  if (does) does();
  return Boolean(does);
}
function timeEvents() {
  const box = $("lanes"), canvas = $("canvas");
  let from = null, moved = false;
  box.addEventListener("scroll", () => draw(true));
  canvas.addEventListener("wheel", event => {
    if (event.shiftKey || !event.deltaY) return;
    event.preventDefault();
    const at = (event.clientX - canvas.getBoundingClientRect().left - view.label) / (canvas.clientWidth - view.label);
    zoom(event.deltaY > 0 ? 1.25 : .8, view.live && at > .8 ? 1 : Math.max(0, Math.min(1, at)));
  }, { passive: false });
  canvas.addEventListener("pointerdown", event => { from = [event.clientX, view.end]; moved = false; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", event => {
    if (from) {
      const by = event.clientX - from[0];
      if (Math.abs(by) > 3) { moved = true; view.live = false; view.end = from[1] - by / view.scale; draw(true); }
      return;
    }
    const hit = spanAt(event);
    if (!hit) return;
    const [[, machine, n], row] = hit;
    put($("under"), machine + ", worker " + n + ": " + (row ? row[0] + (row[3] > 1 ? ", " + number(row[3]) + " calls one after another" : "") + ", " + duration(row[2]) + " from " + clock(row[1]) + (row[4] ? ", failed" : "") : "idle"));
  });
  canvas.addEventListener("pointerup", event => { from = null; const hit = moved ? null : spanAt(event); if (hit && hit[1] && hit[1][5]) tell(hit[1][5]); });
}

// --- data and log ---

function drawData(store) {
  const names = store.table("machines"), who = address => (names.get(address) || {}).name || address;
  const blobs = [...store.table("blobs")].sort((a, b) => b[1][2] - a[1][2]);
  fill($("blobs"), blobs.slice(0, 300).map(([blob, [size, holders, last]]) => [blob.slice(0, 16), bytes(size), holders.length, holders.slice(0, 12).map(who).join(", ") + (holders.length > 12 ? " …" : ""), clock(last)]));
  fill($("transfers"), store.transfers.slice(-200).reverse().map(([when, blob, size, source, to]) => [clock(when), blob.slice(0, 16), bytes(size), source ? who(source) : "the client", who(to)]));
}
function drawLog(store) {
  const kinds = { error: "bad", warning: "warn" };
  fill($("lines"), store.log.slice(-500).reverse().map(([when, kind, text]) => [clock(when), { text: kind, cls: kinds[kind] }, text]));
}

// --- the frame ---

const drawers = { now: drawNow, tasks: drawTasks, time: drawTime, data: drawData, log: drawLog };
const stream = new Stream(() => draw());
function draw(asked) {
  const { totals } = stream.store, workers = [...stream.store.table("workers").values()], busy = workers.filter(row => row[0]).length;
  const lost = !stream.alive ? (drawn ? "The dashboard does not answer: this page shows what it knew." : "") : totals.lost ? "No scheduler: " + totals.lost : "";
  $("lost").hidden = !lost;
  put($("lost"), lost);
  if (totals.address !== undefined) {
    const size = stream.store.table("machines").size;
    put($("totals"), size + (size === 1 ? " machine · " : " machines · ") + busy + " of " + workers.length + " workers busy · " + number(totals.queued) + " waiting · " + number(totals.finished) + " finished" + (totals.missed ? " · " + number(totals.missed) + " events left out" : ""));
    document.title = "minidask: " + busy + "/" + workers.length + " busy";
  }
  if ((paused && !asked) || document.hidden) return;
  drawn = true;
  drawers[page](stream.store);
}
function show() {
  const wanted = location.hash.slice(2);
  page = PAGES.includes(wanted) ? wanted : "now";
  for (const name of PAGES) $(name).hidden = name !== page;
  for (const link of document.querySelectorAll("nav a")) if (link.dataset.page === page) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  stream.open(page, page === "tasks" ? $("query").value : "");
}
function pause(on) { paused = on; $("pause").setAttribute("aria-pressed", String(on)); put($("pause"), on ? "Paused" : "Pause"); draw(true); }
function theme() {
  const order = ["", "light", "dark"], root = document.documentElement, next = order[(order.indexOf(root.dataset.theme || "") + 1) % 3];
  if (next) root.dataset.theme = next; else delete root.dataset.theme;
  localStorage.setItem("minidask-theme", next);
  put($("theme"), "Theme" + (next ? ": " + next : ""));
  draw(true);
}
document.addEventListener("keydown", event => {
  const within = event.target.closest("input, button, a"), key = event.key;
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (key === "Escape") { if (chosen) closeStory(); else event.target.blur(); return; }
  if (event.target.matches("input")) return;
  const row = event.target.closest("tr[data-key]");
  if (row && (key === "Enter" || key === " ")) tell(row.dataset.key);
  else if (row && key === "ArrowDown" && row.nextElementSibling) row.nextElementSibling.focus();
  else if (row && key === "ArrowUp" && row.previousElementSibling) row.previousElementSibling.focus();
  else if (page === "time" && timeKey(key)) { /* done */ }
  else if (key >= "1" && key <= "5") location.hash = "/" + PAGES[key - 1];
  else if (key === "/") { location.hash = "/tasks"; requestAnimationFrame(() => setTimeout(() => $("query").focus(), 50)); }
  else if (key === " " && !within) pause(!paused);
  else return;
  event.preventDefault();
});
$("found").addEventListener("click", event => { const row = event.target.closest("tr[data-key]"); if (row) tell(row.dataset.key); });
let asked = 0;
$("query").addEventListener("input", () => { clearTimeout(asked); asked = setTimeout(show, 250); });
$("pause").addEventListener("click", () => pause(!paused));
$("theme").addEventListener("click", theme);
for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", () => timeKey(button.dataset.do));
window.addEventListener("hashchange", show);
window.addEventListener("resize", () => draw(true));
document.addEventListener("visibilitychange", () => draw(true));
setInterval(() => { if (page === "now" || page === "time") draw(); if (page === "tasks" && chosen && !paused && !document.hidden) tell(chosen); }, 1000);
const kept = localStorage.getItem("minidask-theme");
if (kept) { document.documentElement.dataset.theme = kept; put($("theme"), "Theme: " + kept); }
timeEvents();
show();
