// The list's rows, as far as they were loaded, in pages. A page is all that stands between two places in the order: so it
// can be asked for again, whatever came in meanwhile, and no row is missed or doubled.
import { get, mayPass } from "./api.js";

const FIRST = 100;
const FURTHER = 500;
const MOST = 1000;
const POLL_MS = 2000;
const HIDDEN_POLL_MS = 15000;
const SLOWEST_MS = 10000;

export class Rows {
  constructor() {
    this.changed = () => {}; // called when there is something new to draw
    this.asked = null;
    this.timer = null;
    this.turn = 0; // of the question; an answer to an older one is dropped
    this.clear();
  }

  clear() {
    this.pages = [];
    this.flat = null;
    this.total = null;
    this.counts = {};
    this.revision = null;
    this.building = null;
    this.problem = null;
    this.error = null;
    this.loading = null;
  }

  get rows() {
    this.flat ??= this.pages.flatMap((page) => page.rows);
    return this.flat;
  }

  get isWhole() {
    return this.pages.length > 0 && this.pages.at(-1).through === null;
  }

  // Ask anew, unless it is the same. What is shown stays until the answer is here.
  async ask(asked) {
    if (JSON.stringify(asked) === JSON.stringify(this.asked)) return;
    this.asked = asked;
    this.turn += 1;
    this.isAsking = true;
    this.revision = null;
    this.changed();
    await this.refresh();
    this.isAsking = false;
    this.changed();
  }

  start() {
    this.stop();
    this.isOn = true;
    const wait = document.hidden ? HIDDEN_POLL_MS : POLL_MS;
    const delay = this.error ? Math.min(SLOWEST_MS, wait * this.failures) : wait;
    this.timer = setTimeout(async () => {
      await this.refresh();
      if (this.isOn) this.start();
    }, delay);
  }

  stop() {
    this.isOn = false;
    clearTimeout(this.timer);
  }

  // The first page as it is now, if anything has changed; the others are asked for when they are next in sight.
  async refresh() {
    if (this.asked === null) return; // a study is looked at, and nobody has seen the list yet
    const turn = this.turn;
    const isNew = this.revision === null;
    const through = isNew ? null : this.pages[0]?.through;
    const words = { ...this.asked, limit: through || !isNew ? MOST : FIRST, through, revision: this.revision };
    const answer = await this.fetch(words, turn);
    if (answer === null) return;
    this.building = answer.building;
    this.problem = answer.problem;
    if (!answer.unchanged) {
      const before = new Map(this.rows.map((row) => [row.orthanc_id, row]));
      this.total = answer.total;
      this.counts = answer.counts;
      this.models = answer.models ?? this.models ?? [];
      this.modalities = answer.modalities ?? this.modalities ?? [];
      if (isNew) this.pages = [];
      this.put(0, { after: null, through: answer.next ?? through ?? null, rows: answer.rows });
      if (answer.next && answer.next !== through) this.cut(1); // the first page had grown too long
      for (const page of this.pages.slice(1)) page.isStale = true;
      this.revision = answer.revision;
      this.news = isNew ? [] : answer.rows.filter((row) => before.get(row.orthanc_id)?.state !== row.state);
    }
    this.changed();
  }

  // See that the rows from `first` to before `last` are there and true.
  async need(first, last) {
    if (this.loading || this.error) return;
    const page = this.pageToLoad(first, last);
    if (page === null) return;
    const turn = this.turn;
    const { after, through } = this.pages[page] ?? { after: this.pages.at(-1).through, through: null };
    this.loading = this.fetch({ ...this.asked, after, through, limit: through ? MOST : FURTHER }, turn);
    const answer = await this.loading;
    this.loading = null;
    if (answer === null) return;
    this.put(page, { after, through: answer.next ?? through, rows: answer.rows });
    if (through && answer.next) this.cut(page + 1);
    this.changed();
    this.need(first, last);
  }

  pageToLoad(first, last) {
    let start = 0;
    for (const [number, page] of this.pages.entries()) {
      const end = start + page.rows.length;
      if (page.isStale && end > first && start < last) return number;
      start = end;
    }
    return last > start && this.pages.length && !this.isWhole ? this.pages.length : null;
  }

  put(number, page) {
    const ids = new Set(page.rows.map((row) => row.orthanc_id));
    for (const [other, old] of this.pages.entries()) {
      if (other !== number) old.rows = old.rows.filter((row) => !ids.has(row.orthanc_id));
    }
    this.pages[number] = page;
    this.flat = null;
  }

  cut(pages) {
    this.pages.length = pages;
    this.flat = null;
  }

  async fetch(words, turn) {
    const query = new URLSearchParams(Object.entries(words).filter(([, value]) => value));
    try {
      const answer = await get(`/worklist?${query}`);
      if (turn !== this.turn) return null;
      this.error = null;
      this.failures = 0;
      return answer;
    } catch (error) {
      if (turn !== this.turn) return null;
      this.error = error;
      this.failures = (this.failures ?? 0) + 1;
      if (!mayPass(error)) this.failures = 5;
      this.changed();
      return null;
    }
  }
}
