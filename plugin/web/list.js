// The list of studies. Only the rows in sight are drawn, however many there are.
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./view.js";
import { PRIORITIES, REVIEWS, STATES, amount, count, date, fullTime, model, personName, sentence, time } from "./format.js";
import { Copy, Priority, Raised, Review, State, Trouble } from "./parts.js";
import { asked, follow, go, listPath, studyPath } from "./place.js";

const COLUMNS = [
  { sort: "state", title: "State", first: "asc" },
  { sort: "patient", title: "Patient", first: "asc" },
  { sort: "study", title: "Study", first: "desc" },
  { sort: "model", title: "Model", first: "asc" },
  { sort: "finding", title: "Key finding", first: "asc" },
  { sort: "priority", title: "Priority", first: "desc" },
  { sort: "arrived", title: "Arrived", first: "desc" },
];
const NARROW = matchMedia("(max-width: 719px)");
const HEIGHT = { wide: 56, narrow: 116 };
const OVERSCAN = 6;
const TYPING_MS = 250;
const kept = { top: 0, active: null }; // where the reader was, for when they come back

export function List({ rows, tell }) {
  const [words, setWords] = useState(asked);
  const isNarrow = useMedia(NARROW);

  useEffect(() => {
    document.title = "Worklist · Coread";
    const back = () => setWords(asked());
    addEventListener("popstate", back);
    return () => removeEventListener("popstate", back);
  }, []);
  const key = JSON.stringify(words);
  useEffect(() => {
    rows.ask(words).then(() => rows.total !== null && tell(`${count(rows.total, "study", "studies")} in the list`));
  }, [key]);
  const ask = (more) => {
    const next = { ...words, ...more };
    history.replaceState(null, "", listPath(next));
    kept.top = 0;
    setWords(next);
  };
  return html`<main class="list" id="main">
    <h1 class="hidden">Worklist</h1>
    <${Filters} words=${words} ask=${ask} rows=${rows} isNarrow=${isNarrow} />
    <${Trouble} error=${rows.error} problem=${rows.problem} building=${rows.building} />
    <${Grid} rows=${rows} words=${words} ask=${ask} isNarrow=${isNarrow} />
  </main>`;
}

function Filters({ words, ask, rows, isNarrow }) {
  const [isOpen, setOpen] = useState(false);
  const chosen = words.state.split(",").filter(Boolean);
  const toggle = (state) =>
    ask({ state: (chosen.includes(state) ? chosen.filter((each) => each !== state) : [...chosen, state]).join(",") });
  const states = Object.keys(STATES).filter((state) => rows.counts[state] || chosen.includes(state));
  const set = ["state", "model", "priority", "modality", "flag", "review", "archive"].filter((name) => words[name]).length;
  const isShown = !isNarrow || isOpen;
  return html`<search class="filters">
    <div class="line">
      <${Search} value=${words.search} ask=${ask} />
      ${isNarrow && html`<button type="button" aria-expanded=${isOpen} aria-controls="filters" onClick=${() => setOpen(!isOpen)}>
        Filter${set ? ` (${set})` : ""}
      </button>`}
      <p class="total" data-total=${rows.total}>${rows.total === null ? "" : count(rows.total, "study", "studies")}</p>
    </div>
    ${isShown && html`<div class="line more" id="filters">
      <div class="chips" role="group" aria-label="State">
        ${states.map((state) => html`<button type="button" class="chip" key=${state} data-state=${state}
          aria-pressed=${chosen.includes(state)} onClick=${() => toggle(state)}>
          ${STATES[state]} <span class="number">${amount(rows.counts[state] ?? 0)}</span>
        </button>`)}
      </div>
      <${Choice} name="model" title="Model" all="All models" words=${words} ask=${ask}
        values=${(rows.models ?? []).map((name) => [name, model(name)])} />
      <${Choice} name="modality" title="Modality" all="All modalities" words=${words} ask=${ask}
        values=${(rows.modalities ?? []).map((name) => [name, name])} />
      <${Choice} name="priority" title="Priority" all="All priorities" words=${words} ask=${ask}
        values=${Object.entries(PRIORITIES)} />
      <${Choice} name="review" title="Review" all="All reviews" words=${words} ask=${ask}
        values=${[["none", "Not reviewed"], ...Object.entries(REVIEWS)]} />
      <${Choice} name="archive" title="Archive runs" all="Without archive runs" words=${words} ask=${ask}
        values=${[["show", "With archive runs"], ["only", "Archive runs only"]]} />
      <label class="check"><input type="checkbox" checked=${words.flag === "raised"}
        onChange=${(event) => ask({ flag: event.currentTarget.checked ? "raised" : "" })} /> Raised only</label>
      ${isNarrow && html`<${Sorting} words=${words} ask=${ask} />`}
      ${set > 0 && html`<button type="button" class="quiet"
        onClick=${() => ask({ state: "", model: "", priority: "", modality: "", flag: "", review: "", archive: "" })}>Clear filters</button>`}
    </div>`}
  </search>`;
}

function Search({ value, ask }) {
  const field = useRef(null);
  const timer = useRef(0);
  useEffect(() => {
    if (field.current !== document.activeElement) field.current.value = value;
  }, [value]);
  useEffect(() => {
    const focus = (event) => {
      if (event.key !== "/" || event.target.closest("input, textarea, select, dialog")) return;
      event.preventDefault();
      field.current.focus();
    };
    addEventListener("keydown", focus);
    return () => removeEventListener("keydown", focus);
  }, []);
  const typed = (event) => {
    const { value: text } = event.currentTarget;
    clearTimeout(timer.current);
    timer.current = setTimeout(() => ask({ search: text.trim() }), TYPING_MS);
  };
  return html`<label class="search"><span class="hidden">Search</span>
    <input type="search" ref=${field} maxlength="200" defaultValue=${value} onInput=${typed} autocomplete="off"
      spellcheck="false" placeholder="Search name, ID, accession, finding" /></label>`;
}

function Choice({ name, title, all, values, words, ask }) {
  const known = values.some(([value]) => value === words[name]);
  return html`<label class="choice"><span class="hidden">${title}</span>
    <select value=${words[name]} onChange=${(event) => ask({ [name]: event.currentTarget.value })}>
      <option value="">${all}</option>
      ${values.map(([value, text]) => html`<option key=${value} value=${value}>${text}</option>`)}
      ${words[name] && !known && html`<option value=${words[name]}>${words[name]}</option>`}
    </select></label>`;
}

function Sorting({ words, ask }) {
  const value = `${words.sort || "arrived"} ${words.order || "desc"}`;
  const change = (event) => {
    const [sort, order] = event.currentTarget.value.split(" ");
    ask({ sort, order });
  };
  return html`<label class="choice"><span class="hidden">Sort</span><select value=${value} onChange=${change}>
    ${COLUMNS.flatMap(({ sort, title }) => [
      html`<option key=${`${sort} asc`} value=${`${sort} asc`}>${title}, rising</option>`,
      html`<option key=${`${sort} desc`} value=${`${sort} desc`}>${title}, falling</option>`,
    ])}</select></label>`;
}

function Grid({ rows, words, ask, isNarrow }) {
  const box = useRef(null);
  const body = useRef(null);
  const height = isNarrow ? HEIGHT.narrow : HEIGHT.wide;
  const [sight, setSight] = useState({ first: 0, last: 24 });
  const [active, setActive] = useState(kept.active);
  const loaded = rows.rows;
  const total = Math.max(rows.total ?? 0, loaded.length);

  const look = () => {
    const { scrollTop, clientHeight } = box.current;
    kept.top = scrollTop;
    const top = Math.max(0, scrollTop - body.current.offsetTop);
    const first = Math.max(0, Math.floor(top / height) - OVERSCAN);
    const last = Math.ceil((top + clientHeight) / height) + OVERSCAN;
    // In steps, so that most movements draw nothing.
    const next = { first: first - (first % 8), last: last + 8 - (last % 8) };
    setSight((old) => (old.first === next.first && old.last === next.last ? old : next));
  };
  useLayoutEffect(() => {
    box.current.scrollTop = kept.top;
    look();
    const resized = new ResizeObserver(look);
    resized.observe(box.current);
    return () => resized.disconnect();
  }, [height, loaded.length > 0]);
  useEffect(() => {
    rows.need(sight.first, Math.min(sight.last, total));
  });

  const position = useMemo(() => new Map(loaded.map((row, number) => [row.orthanc_id, number])), [loaded]);
  const at = position.get(active);
  const first = Math.min(sight.first, loaded.length);
  const shown = loaded.slice(first, sight.last).map((row, number) => [row, first + number]);
  // The row that has the focus stays, also out of sight: otherwise the focus would be lost.
  if (at !== undefined && (at < first || at >= sight.last)) shown.push([loaded[at], at]);
  const tabStop = at === undefined ? loaded[0]?.orthanc_id : active;

  const move = (to) => {
    const number = Math.max(0, Math.min(loaded.length - 1, to));
    const row = loaded[number];
    if (!row) return;
    setActive((kept.active = row.orthanc_id));
    const head = box.current.querySelector(".head").offsetHeight;
    const top = number * height;
    const from = box.current.scrollTop;
    const room = box.current.clientHeight - head - height;
    if (top < from) box.current.scrollTop = top;
    else if (top > from + room) box.current.scrollTop = top - room;
    requestAnimationFrame(() => requestAnimationFrame(() => document.getElementById(`row-${row.orthanc_id}`)?.focus()));
  };
  const key = (event) => {
    const row = event.target.closest(".row");
    if (!row || event.altKey || event.ctrlKey || event.metaKey) return;
    const from = at ?? 0;
    const page = Math.max(1, Math.floor(box.current.clientHeight / height) - 2);
    const moves = { ArrowDown: from + 1, ArrowUp: from - 1, PageDown: from + page, PageUp: from - page, Home: 0 };
    moves.End = loaded.length - 1;
    if (event.key in moves) {
      event.preventDefault();
      move(moves[event.key]);
    } else if (event.key === "Enter" && event.target === row) {
      event.preventDefault();
      go(studyPath(row.dataset.id));
    }
  };
  const open = (event) => {
    if (event.target.closest("a") || getSelection()?.toString()) return;
    go(studyPath(event.currentTarget.dataset.id));
  };

  return html`<div class="box" ref=${box} onScroll=${look} aria-busy=${rows.isAsking}>
    <div role="grid" aria-label="Studies" aria-rowcount=${total + 1} aria-colcount=${COLUMNS.length} onKeyDown=${key}>
      <div class="head" role="row" aria-rowindex="1">
        ${COLUMNS.map((column) => html`<${Heading} key=${column.sort} column=${column} words=${words} ask=${ask} />`)}
      </div>
      <div class="rows" role="rowgroup" ref=${body} style=${{ height: `${total * height}px` }}>
        ${shown.map(([row, number]) => html`<${Row} key=${row.orthanc_id} row=${row} number=${number} height=${height}
          isStop=${row.orthanc_id === tabStop} focused=${() => setActive((kept.active = row.orthanc_id))} open=${open} />`)}
      </div>
    </div>
    <${Nothing} rows=${rows} words=${words} ask=${ask} />
  </div>`;
}

function Heading({ column, words, ask }) {
  const isSorted = (words.sort || "arrived") === column.sort;
  const order = words.order || "desc";
  const next = isSorted ? (order === "asc" ? "desc" : "asc") : column.first;
  const sorted = isSorted ? (order === "asc" ? "ascending" : "descending") : "none";
  return html`<div role="columnheader" class=${`cell ${column.sort}`} aria-sort=${sorted}>
    <button type="button" onClick=${() => ask({ sort: column.sort, order: next })}>${column.title}</button>
  </div>`;
}

function Row({ row, number, height, isStop, focused, open }) {
  const name = personName(row.patient_name);
  const born = row.patient_birth_date ? `, born ${date(row.patient_birth_date)}` : "";
  const models = row.models.map((each) => model(each.model)).join(", ");
  const others = row.models.length > 1 ? row.models.map((each) => `${model(each.model)}: ${STATES[each.state]}`).join("\n") : null;
  return html`<div class="row" role="row" id=${`row-${row.orthanc_id}`} data-id=${row.orthanc_id} data-state=${row.state}
    aria-rowindex=${number + 2} tabindex=${isStop ? 0 : -1} onFocus=${focused} onClick=${open}
    style=${{ transform: `translateY(${number * height}px)` }}>
    <div role="gridcell" class="cell state"><${State} state=${row.state} /><${Review} review=${row.review} /></div>
    <div role="gridcell" class="cell patient">
      <a class="name" href=${studyPath(row.orthanc_id)} tabindex="-1" onClick=${follow}>${name}</a>
      <span class="sub">${row.patient_id || "no ID"}${born}</span>
    </div>
    <div role="gridcell" class="cell study">
      <span>${row.study_description || "No description"}</span>
      <span class="sub">${[date(row.study_date), row.modalities.join(", "), row.accession_number].filter(Boolean).join(" · ")}</span>
    </div>
    <div role="gridcell" class="cell model" title=${others}><span>${models || "–"}</span></div>
    <div role="gridcell" class="cell finding">
      <span title=${row.key_finding || row.because}>
        ${row.priority === "stat" && html`<span class="narrow-only"><${Priority} priority="stat" /> </span>`}
        ${row.raised && html`<${Raised} /> `}
        ${row.archive_run && html`<${Copy} /> `}
        ${row.key_finding || html`<span class="why">${sentence(row.because)}</span>`}
      </span>
    </div>
    <div role="gridcell" class="cell priority"><${Priority} priority=${row.priority} /></div>
    <div role="gridcell" class="cell arrived">
      <time datetime=${row.arrived_at} title=${fullTime(row.arrived_at)}>${time(row.arrived_at)}</time>
      ${row.ended_at && html`<span class="sub" title=${fullTime(row.ended_at)}>ended ${time(row.ended_at)}</span>`}
    </div>
  </div>`;
}

function Nothing({ rows, words, ask }) {
  if (rows.rows.length) return null;
  if (rows.total === null || rows.isAsking) {
    return rows.error ? null : html`<p class="nothing" role="status">Loading the list …</p>`;
  }
  const isFiltered = Object.entries(words).some(([name, value]) => value && name !== "sort" && name !== "order");
  if (isFiltered) {
    const all = Object.fromEntries(Object.keys(words).map((name) => [name, ""]));
    return html`<div class="nothing"><p>No study matches.</p>
      <button type="button" onClick=${() => ask(all)}>Show all studies</button></div>`;
  }
  return html`<div class="nothing"><p>No studies yet.</p>
    <p class="sub">A study shows up here as soon as its first images arrive by C-STORE or STOW-RS.</p></div>`;
}

function useMedia(media) {
  const [matches, set] = useState(media.matches);
  useEffect(() => {
    const changed = () => set(media.matches);
    media.addEventListener("change", changed);
    return () => media.removeEventListener("change", changed);
  }, []);
  return matches;
}
