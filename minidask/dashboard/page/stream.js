// What the server tells, kept up to date: tables by key, the spans of each worker, with bounds. No page, no drawing.
"use strict";

const MOST_SPANS = 60000, MOST_LINES = 1000;

class Store {
  constructor() { this.tables = {}; this.spans = new Map(); this.count = 0; this.log = []; this.transfers = []; this.tasks = null; }

  table(name) { return this.tables[name] || (this.tables[name] = new Map()); }

  get totals() { return this.table("totals").get("all") || {}; }

  take(update) {
    for (const name of ["totals", "machines", "workers", "clients", "calls", "blobs"]) {
      const changed = update[name];
      if (!changed) continue;
      const table = this.table(name);
      if (changed.all) table.clear();
      for (const key of changed.gone || []) table.delete(key);
      for (const [key, row] of Object.entries(changed.set || {})) table.set(key, row);
    }
    for (const name of ["log", "transfers"])
      if (update[name] && update[name].length) this[name] = this[name].concat(update[name]).slice(-MOST_LINES);
    if (update.tasks) this.tasks = update.tasks;
    if (update.spans) this.addSpans(update.spans);
  }

  addSpans(added) {
    for (const [lane, rows] of Object.entries(added)) {
      if (!this.spans.has(lane)) this.spans.set(lane, []);
      const kept = this.spans.get(lane);
      for (const row of rows) kept.push(row);
      this.count += rows.length;
    }
    if (this.count > MOST_SPANS) this.forget();
  }

  // Each worker keeps its last share. So a busy one drives out itself, and nobody else.
  forget() {
    const share = Math.max(20, Math.floor(MOST_SPANS * .8 / this.spans.size));
    this.count = 0;
    for (const [lane, rows] of this.spans) {
      if (!this.table("workers").has(lane) && this.spans.size > 200) { this.spans.delete(lane); continue; }
      if (rows.length > share) this.spans.set(lane, rows.slice(-share));
      this.count += this.spans.get(lane).length;
    }
  }
}

// Which page is shown decides what the server sends: one stream at a time.
class Stream {
  constructor(changed) { this.changed = changed; this.source = null; this.store = new Store(); this.alive = false; }

  open(page, query) {
    this.close();
    const store = this.store = new Store();
    const source = this.source = new EventSource("stream?page=" + page + "&q=" + encodeURIComponent(query || ""));
    source.onopen = () => { this.alive = true; this.changed(); };
    source.onmessage = event => {
      const update = JSON.parse(event.data);
      if (update.totals && update.totals.all) this.store = new Store();  // the server began anew
      this.store.take(update);
      this.changed();
    };
    source.onerror = () => { this.alive = false; this.changed(); };
    return store;
  }

  close() { if (this.source) this.source.close(); this.source = null; }
}
