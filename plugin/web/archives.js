// Archive runs: what is read again of an archive, how far it has come, and what a person may do about it.
import { get, mayPass, post } from "./api.js";
import { RUNS, RUN_STUDIES, amount, count, duration, fullTime, model, sentence, time } from "./format.js";
import { Dialog, Trouble, Wrong, may, useAction } from "./parts.js";
import { archivePath, follow } from "./place.js";
import { html, useEffect, useRef, useState } from "./view.js";

const POLL_MS = 2000;
const ENDED_POLL_MS = 10000;
const SLOWEST_MS = 10000;
const ENDED = new Set(["finished", "cancelled"]);
const UNDER_WAY = ["retrieving", "here", "reading", "collected"];
const PAGE = 50;
const HOURS = "(([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00))?";

export function Archives({ tell }) {
  const { answer, error } = usePolled("/archive/runs", (found) => found.runs.every(isOver), () => {});
  const heading = useHeading(answer !== null, "Archives");
  const runs = answer?.runs ?? [];
  useEffect(() => {
    if (answer) tell(count(runs.length, "archive run"));
  }, [runs.length]);
  return html`<main class="page" id="main">
    <h1 tabindex="-1" ref=${heading}>Archives</h1>
    <${Trouble} error=${error} />
    ${!answer && !error && html`<p class="nothing" role="status">Loading the runs …</p>`}
    ${answer && !runs.length && html`<div class="nothing"><p>No archive runs yet.</p>
      <p class="sub">A plan says which studies are read again: <span class="code">coread archive plan</span> makes one,
      <span class="code">coread archive run</span> begins it.</p></div>`}
    ${runs.some((run) => !isOver(run)) && html`<${NoArchivist} answer=${answer} />`}
    ${runs.length > 0 && html`<ul class="plain">${runs.map((run) => html`<li class="card run" key=${run.run_id} data-run=${run.run_id}>
      <div class="job-head"><h2><a href=${archivePath(run.run_id)} onClick=${follow}>${run.name}</a></h2>
        <p class="tags"><${RunState} state=${run.state} /></p></div>
      <${Progress} run=${run} />
      <p class="sub">${run.terms.models.map(model).join(", ")} · from ${place(run.terms.source)} · begun ${time(run.created_at)}</p>
    </li>`)}</ul>`}
  </main>`;
}

export function ArchiveRun({ id, me, tell }) {
  const path = `/archive/runs/${encodeURIComponent(id)}`;
  const { answer: run, error, reload } = usePolled(path, isOver, (found, before) => {
    if (before && before.state !== found.state) tell(`Now: ${RUNS[found.state]}`);
  });
  const heading = useHeading(run !== null, run?.name ?? "Archive run");
  return html`<main class="page" id="main">
    <p><a class="back" href=${archivePath()} onClick=${follow}>← Archives</a></p>
    <${Trouble} error=${run || mayPass(error ?? {}) ? error : null} />
    ${!run && !error && html`<p class="nothing" role="status">Loading the run …</p>`}
    ${!run && error?.status === 404 && html`<div class="nothing"><h1 tabindex="-1" ref=${heading}>This run is not here</h1></div>`}
    ${!run && error && error.status !== 404 && !mayPass(error) && html`<p class="notice bad" role="alert">${error.message}</p>`}
    ${run && html`<${Head} run=${run} heading=${heading} />
      <section class="card" aria-labelledby="progress-title"><h2 class="hidden" id="progress-title">Progress</h2>
        ${!isOver(run) && html`<${NoArchivist} answer=${run} />`}
        <${Progress} run=${run} isWhole />
        <${Actions} run=${run} path=${path} me=${me} reload=${reload} tell=${tell} />
      </section>
      <${Reasons} run=${run} path=${path} />
      <${Studies} run=${run} path=${path} />`}
  </main>`;
}

function Head({ run, heading }) {
  const { terms } = run;
  const facts = [
    ["Models", terms.models.map(model).join(", ")], ["From", place(terms.source)], ["Begun", fullTime(run.created_at)], ["By", run.created_by],
    ["Ended", fullTime(run.ended_at)], ["Hours", terms.hours ?? "all day"],
    ["Studies a minute", terms.studies_per_minute === null ? "as many as there is room for" : `${amount(terms.studies_per_minute)} at most`],
    ["Retrieved at once", amount(terms.associations)], ["Under way at once", `${amount(terms.in_flight)} at most`],
    ["Delivered to", terms.destinations.join(", ")], ["Copies", terms.keep_copies ? "are kept" : "are removed when read"],
  ].filter(([, value]) => value);
  return html`<header class="study-head">
    <div class="names"><h1 tabindex="-1" ref=${heading}>${run.name}</h1><p class="tags"><${RunState} state=${run.state} /></p></div>
    <dl class="facts">${facts.map(([title, value]) => html`<div key=${title}><dt>${title}</dt><dd>${value}</dd></div>`)}</dl>
    ${run.report && html`<p class="viewers"><a class="button primary" href=${`/coread/archive/runs/${run.run_id}/report`} target="_blank"
      rel="noopener">Open the report<span class="hidden"> (in a new tab)</span></a></p>`}
  </header>`;
}

function RunState({ state }) {
  return html`<span class="badge" data-state=${state}>${RUNS[state] ?? state}</span>`;
}

// Width and colour show the shares; the words beside them say the same.
function Progress({ run, isWhole }) {
  const { counts, studies } = run;
  const ended = counts.done + counts.refused + counts.failed + counts.cancelled;
  const underWay = UNDER_WAY.reduce((sum, state) => sum + counts[state], 0);
  const share = studies ? Math.floor((100 * ended) / studies) : 0;
  const words = [
    [counts.done, "done"], [counts.refused, "refused"], [counts.failed, "failed"], [counts.cancelled, "cancelled"],
    [underWay, "under way"], [counts.due, "due"],
  ].filter(([number]) => number);
  const rate = run.per_hour ? `${amount(round(run.per_hour))} an hour` : "";
  const left = run.left_s === null || run.left_s === undefined ? "" : `about ${duration(run.left_s)} left`;
  return html`<div class="progress">
    <div class="track" role="progressbar" aria-label=${`Studies of ${run.name} that have ended`} aria-valuemin="0" aria-valuemax="100"
      aria-valuenow=${share}>
      ${["done", "refused", "failed", "cancelled"].map((state) => counts[state] > 0 && html`<span key=${state} data-state=${state}
        style=${{ width: `${(100 * counts[state]) / studies}%` }}></span>`)}
    </div>
    <p class="figures"><strong>${share} %</strong> <span>${amount(ended)} of ${count(studies, "study", "studies")}</span>
      ${rate && html`<span class="rate">${rate}</span>`} ${left && html`<span class="left">${left}</span>`}</p>
    <p class="sub counts">${words.map(([number, word]) => `${amount(number)} ${word}`).join(" · ")}</p>
    ${run.reason && html`<p class="why">${RUNS[run.state]}: ${sentence(run.reason)}</p>`}
    ${["running", "cancelled"].includes(run.state) && !run.ended_at && run.waits_for && html`<p class="waits">Waits: ${sentence(run.waits_for)}</p>`}
    ${isWhole && run.state === "paused" && underWay > 0 && html`<p class="sub">What was begun is read to its end.</p>`}
  </div>`;
}

function NoArchivist({ answer }) {
  if (!answer.archivist_is_silent) return null;
  return html`<p class="notice warn" role="status">No archivist runs, so nothing is retrieved: start
    <span class="code">coread up</span>, or <span class="code">coread archivist</span>.</p>`;
}

function Actions({ run, path, me, reload, tell }) {
  const { busy, error, act } = useAction();
  const [asked, setAsked] = useState(null);
  if (!may(me, "administer")) return null;
  const { counts, state } = run;
  const mayRetry = state !== "loading" && state !== "cancelled";
  const close = () => setAsked(null);
  const change = (wish, said, body = {}) => act(async () => {
    close();
    await post(`${path}/${wish}`, body);
    tell(said);
    await reload();
  });
  const button = (title, pressed, kind = "") =>
    html`<button type="button" class=${kind} disabled=${busy} onClick=${pressed}>${title}</button>`;
  return html`<div class="buttons">
    ${state === "running" && button("Pause", () => change("pause", "The run is paused."))}
    ${state === "paused" && button("Resume", () => change("resume", "The run goes on."), "primary")}
    ${counts.failed > 0 && mayRetry && button(`Retry ${amount(counts.failed)} failed`, () => change("retry", "What failed is tried again."))}
    ${counts.refused > 0 && mayRetry && button(`Retry ${amount(counts.refused)} refused …`, () => setAsked("retry"))}
    ${!ENDED.has(state) && button("Pace …", () => setAsked("pace"))}
    ${!ENDED.has(state) && button("Cancel …", () => setAsked("cancel"), "danger")}
    <${Wrong} error=${error} />
    ${asked === "cancel" && html`<${Dialog} title="Cancel the run?" close=${close}>
      <p>What is due is not read. What was begun is wound up; what was found so far stays.</p>
      <p class="buttons"><button type="button" class="danger" onClick=${() => change("cancel", "The run is cancelled.")}>Cancel the run</button>
        <button type="button" onClick=${close}>Keep it</button></p><//>`}
    ${asked === "retry" && html`<${Dialog} title="Retry what was refused, too?" close=${close}>
      <p>What a model refused, it refuses again, unless the study or the model has changed. What failed is retried with it.</p>
      <p class="buttons"><button type="button" onClick=${() => change("retry", "What failed and what was refused is tried again.", { refused: true })}>Retry</button>
        <button type="button" onClick=${close}>Back</button></p><//>`}
    ${asked === "pace" && html`<${PaceDialog} terms=${run.terms} close=${close} change=${change} />`}
  </div>`;
}

function PaceDialog({ terms, close, change }) {
  const send = (event) => {
    event.preventDefault();
    const said = Object.fromEntries(new FormData(event.currentTarget));
    change("pace", "The pace is changed.", {
      hours: said.hours || null, studies_per_minute: said.studies_per_minute ? Number(said.studies_per_minute) : null,
      associations: Number(said.associations), in_flight: Number(said.in_flight),
    });
  };
  return html`<${Dialog} title="Pace" close=${close}>
    <form class="pace" onSubmit=${send}>
      <label>Hours, local time, such as 19:00-07:00; empty: all day
        <input name="hours" defaultValue=${terms.hours ?? ""} pattern=${HOURS} autocomplete="off" /></label>
      <label>Studies a minute at most; empty: as many as there is room for
        <input name="studies_per_minute" type="number" min="0.01" max="100000" step="any" defaultValue=${terms.studies_per_minute ?? ""} /></label>
      <label>Retrieved at once <input name="associations" type="number" min="1" max="64" required defaultValue=${terms.associations} /></label>
      <label>Under way at once at most; bounds the room on the disk
        <input name="in_flight" type="number" min="1" max="10000" required defaultValue=${terms.in_flight} /></label>
      <p class="buttons"><button type="submit" class="primary">Change</button><button type="button" onClick=${close}>Back</button></p>
    </form><//>`;
}

function Reasons({ run, path }) {
  const wanted = run.counts.failed + run.counts.refused;
  const { found, error } = useAsked(wanted ? `${path}/reasons` : null, `${run.counts.failed} ${run.counts.refused}`);
  if (!wanted) return null;
  return html`<section class="card" aria-labelledby="reasons-title">
    <h2 id="reasons-title">What was the matter</h2>
    <${Wrong} error=${error} />
    ${!found && !error && html`<p class="sub" role="status">Loading the reasons …</p>`}
    ${found && html`<ul class="reasons plain">${found.reasons.map((each) => html`<li key=${`${each.state} ${each.reason}`}>
      <p class="tags"><span class="badge" data-state=${each.state}>${amount(each.count)} ${each.state}</span>
        <span class="sub">${each.is_permanent ? "another attempt would end the same" : "another attempt may help"}</span></p>
      <p>${sentence(each.reason) || "No reason was given."}</p>
      <details><summary>${each.count > each.first.length ? `The first ${each.first.length}` : count(each.count, "study", "studies")}</summary>
        <ul class="plain">${each.first.map((uid) => html`<li class="code" key=${uid}>${uid}</li>`)}</ul></details>
    </li>`)}</ul>
    ${found.looked_at < wanted && html`<p class="sub">Of the first ${amount(found.looked_at)} of ${amount(wanted)}.</p>`}`}
  </section>`;
}

function Studies({ run, path }) {
  const [state, setState] = useState("");
  const [pages, setPages] = useState([-1]);
  const query = new URLSearchParams({ ...(state && { state }), after: pages.at(-1), limit: PAGE + 1 });
  const { found, error } = useAsked(`${path}/studies?${query}`, JSON.stringify(run.counts));
  const choose = (next) => {
    setState(next);
    setPages([-1]);
  };
  const rows = (found ?? []).slice(0, PAGE);
  const isMore = (found ?? []).length > PAGE;
  const states = Object.keys(RUN_STUDIES).filter((each) => run.counts[each] || each === state);
  return html`<section class="card" aria-labelledby="studies-title">
    <h2 id="studies-title">Studies</h2>
    <div class="chips" role="group" aria-label="State">
      <button type="button" class="chip" aria-pressed=${!state} onClick=${() => choose("")}>All <span class="number">${amount(run.studies)}</span></button>
      ${states.map((each) => html`<button type="button" class="chip" key=${each} data-state=${each} aria-pressed=${each === state}
        onClick=${() => choose(each === state ? "" : each)}>${RUN_STUDIES[each]} <span class="number">${amount(run.counts[each])}</span></button>`)}
    </div>
    <${Wrong} error=${error} />
    ${!found && !error && html`<p class="sub" role="status">Loading the studies …</p>`}
    ${found && !rows.length && html`<p class="sub">None.</p>`}
    ${rows.length > 0 && html`<table class="studies"><caption class="hidden">Studies of the run</caption>
      <thead><tr><th scope="col" class="number">No.</th><th scope="col">State</th><th scope="col">StudyInstanceUID</th><th scope="col">Changed</th></tr></thead>
      <tbody>${rows.map((row) => html`<tr key=${row.position}>
        <td class="number">${amount(row.position + 1)}</td>
        <td><span class="badge" data-state=${row.state}>${RUN_STUDIES[row.state] ?? row.state}</span></td>
        <td><span class="code">${row.study_instance_uid}</span>${row.reason && html`<span class="sub">${sentence(row.reason)}</span>`}
          ${row.attempts > 1 && html`<span class="sub">${amount(row.attempts)} attempts</span>`}</td>
        <td class="changed"><time datetime=${row.changed_at} title=${fullTime(row.changed_at)}>${time(row.changed_at)}</time></td>
      </tr>`)}</tbody></table>`}
    ${(pages.length > 1 || isMore) && html`<p class="buttons">
      <button type="button" disabled=${pages.length === 1} onClick=${() => setPages(pages.slice(0, -1))}>Previous</button>
      <button type="button" disabled=${!isMore} onClick=${() => setPages([...pages, rows.at(-1).position])}>Next</button></p>`}
  </section>`;
}

// An answer that is asked for again and again; `found` is told of each new one, with the one before.
function usePolled(path, isQuiet, found) {
  const [answer, setAnswer] = useState(null);
  const [error, setError] = useState(null);
  const last = useRef({ text: "", timer: 0, failures: 0, isOn: true, answer: null });
  const load = async () => {
    const memory = last.current;
    clearTimeout(memory.timer);
    memory.turn = (memory.turn ?? 0) + 1;
    const { turn } = memory;
    try {
      const now = await get(path);
      if (!memory.isOn || turn !== memory.turn) return;
      const text = JSON.stringify(now);
      if (text !== memory.text) {
        found(now, memory.answer);
        Object.assign(memory, { text, answer: now });
        setAnswer(now);
      }
      memory.failures = 0;
      setError(null);
    } catch (failure) {
      if (!memory.isOn || turn !== memory.turn) return;
      if (failure.status === 404) setAnswer((memory.answer = null));
      memory.failures += 1;
      setError(failure);
    }
    const quiet = memory.answer && isQuiet(memory.answer) ? ENDED_POLL_MS : POLL_MS;
    memory.timer = setTimeout(load, memory.failures ? Math.min(SLOWEST_MS, POLL_MS * memory.failures) : quiet);
  };
  useEffect(() => {
    load();
    const shown = () => !document.hidden && load();
    document.addEventListener("visibilitychange", shown);
    const memory = last.current;
    return () => {
      memory.isOn = false;
      clearTimeout(memory.timer);
      document.removeEventListener("visibilitychange", shown);
    };
  }, []);
  return { answer, error, reload: load };
}

// What hangs on something else that is polled: asked for anew when `revision` changes. What is shown stays until then.
function useAsked(path, revision) {
  const [state, set] = useState({ path: null, found: null, error: null });
  useEffect(() => {
    if (path === null) return undefined;
    let isOn = true;
    get(path).then(
      (found) => isOn && set({ path, found, error: null }),
      (error) => isOn && set((before) => ({ path, found: before.path === path ? before.found : null, error: error.message })),
    );
    return () => {
      isOn = false;
    };
  }, [path, revision]);
  return state;
}

function useHeading(isThere, title) {
  const heading = useRef(null);
  useEffect(() => {
    if (isThere) heading.current?.focus();
  }, [isThere]);
  useEffect(() => {
    document.title = `${title} · Coread`;
  }, [title]);
  return heading;
}

function place(source) {
  return source === "here" ? "this Orthanc" : source;
}

function isOver(run) {
  return ENDED.has(run.state);
}

function round(rate) {
  return rate >= 10 ? Math.round(rate) : Math.round(rate * 10) / 10;
}
