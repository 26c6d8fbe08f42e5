// One study: what was found in it, how that came about, and what a person may do.
import { get, mayPass, post } from "./api.js";
import { PRIORITIES, STATES, capital, count, date, fullTime, model, personName, safeUrl, seconds, sentence, sex, time } from "./format.js";
import { Copy, Dialog, Priority, Raised, Research, Review, State, Trouble, Wrong, may, useAction } from "./parts.js";
import { archivePath, follow, lastList } from "./place.js";
import { ReviewDialog } from "./review.js";
import { html, useEffect, useRef, useState } from "./view.js";

const POLL_MS = 2000;
const ENDED_POLL_MS = 10000;
const SLOWEST_MS = 10000;
const ENDED = new Set(["done", "failed", "refused", "cancelled", "superseded"]);
const EVENTS = {
  waiting: "waits", queued: "is next for a free worker", running: "a worker has begun to read", storing: "results are being stored",
  done: "done", failed: "failed", refused: "refused", cancelled: "cancelled", superseded: "superseded",
};

export function Study({ id, me, rows, tell }) {
  const { study, error, reload } = useStudy(id, rows, tell);
  const heading = useRef(null);
  const isThere = study !== null;
  useEffect(() => {
    if (isThere) heading.current?.focus();
  }, [isThere]);
  const name = study ? personName(study.patient_name) : "";
  useEffect(() => {
    document.title = study ? `${name} · Coread` : "Study · Coread";
  }, [name]);
  return html`<main class="page" id="main">
    <p><a class="back" href=${lastList()} onClick=${follow}>← Worklist</a></p>
    <${Trouble} error=${study || mayPass(error ?? {}) ? error : null} problem=${study?.problem} />
    ${!study && !error && html`<p class="nothing" role="status">Loading the study …</p>`}
    ${!study && error?.status === 404 && html`<div class="nothing"><h1 tabindex="-1" ref=${heading}>This study is not here</h1>
      <p class="sub">It was deleted, or its first images have not arrived.</p></div>`}
    ${!study && error && error.status !== 404 && !mayPass(error) && html`<p class="notice bad" role="alert">${error.message}</p>`}
    ${study && html`<${Head} study=${study} name=${name} heading=${heading} />
      <${Arriving} study=${study} me=${me} reload=${reload} tell=${tell} />
      <${Jobs} study=${study} me=${me} reload=${reload} tell=${tell} />`}
  </main>`;
}

function useStudy(id, rows, tell) {
  const [study, setStudy] = useState(null);
  const [error, setError] = useState(null);
  const last = useRef({ text: "", timer: 0, failures: 0, isOn: true });
  const load = async () => {
    const memory = last.current;
    clearTimeout(memory.timer);
    try {
      const answer = await get(`/worklist/${encodeURIComponent(id)}`);
      const text = JSON.stringify({ ...answer, at: null });
      if (text !== memory.text && memory.isOn) {
        if (memory.state && memory.state !== answer.state) tell(`Now: ${STATES[answer.state]}`);
        Object.assign(memory, { text, state: answer.state });
        setStudy(answer);
      }
      Object.assign(memory, { failures: 0, isOver: isOver(answer) });
      setError(null);
    } catch (found) {
      if (found.status === 404) setStudy(null);
      memory.failures += 1;
      setError(found);
    }
    if (!memory.isOn) return;
    const wait = memory.failures ? Math.min(SLOWEST_MS, POLL_MS * memory.failures) : memory.isOver ? ENDED_POLL_MS : POLL_MS;
    memory.timer = setTimeout(load, wait);
  };
  useEffect(() => {
    load();
    const memory = last.current;
    return () => {
      memory.isOn = false;
      clearTimeout(memory.timer);
    };
  }, []);
  // The list tells when something has changed, also of a study that was over.
  const revision = rows.revision;
  useEffect(() => {
    if (last.current.text && last.current.isOver) load();
  }, [revision]);
  return { study, error, reload: load };
}

// Whether nothing more is under way by itself.
function isOver({ arriving, jobs }) {
  return !arriving && jobs.every((job) => ENDED.has(job.state) && job.reviews.every((review) => review.state !== "asked"));
}

function Head({ study, name, heading }) {
  const facts = [
    ["ID", study.patient_id], ["Born", date(study.patient_birth_date)], ["Sex", sex(study.patient_sex)],
    ["Study date", date(study.study_date)], ["Modality", study.modalities.join(", ")], ["Accession", study.accession_number],
    ["Images", String(study.images)], ["Arrived", time(study.arrived_at)],
  ].filter(([, value]) => value);
  return html`<header class="study-head">
    <div class="names">
      <h1 tabindex="-1" ref=${heading}>${name}</h1>
      <p class="description">${study.study_description || "No description"}</p>
      <p class="tags"><${State} state=${study.state} /><${Priority} priority=${study.priority} />
        ${study.raised && html`<${Raised} />`}<${Review} review=${study.review} />${study.archive_run && html`<${Copy} />`}</p>
      ${study.archive_run && html`<p class="sub">Retrieved by <a href=${archivePath(study.archive_run)} onClick=${follow}>an archive run</a>, and
        removed when it is read, unless the run keeps its copies.</p>`}
      ${(study.raised ?? []).map((each) => html`<p class="sub" key=${each.alert}>Raised by ${each.alert}: ${each.words}</p>`)}
    </div>
    <dl class="facts">${facts.map(([title, value]) => html`<div key=${title}><dt>${title}</dt><dd>${value}</dd></div>`)}</dl>
    ${study.viewers.length > 0 && html`<p class="viewers">${study.viewers.map((viewer) => safeUrl(viewer.url) &&
      html`<a class="button primary" key=${viewer.name} href=${viewer.url} target="_blank" rel="noopener">Open in ${viewer.name}<span
        class="hidden"> (in a new tab)</span></a>`)}</p>`}
  </header>`;
}

function Arriving({ study, me, reload, tell }) {
  const { busy, error, act } = useAction();
  const arriving = study.arriving;
  if (!arriving) {
    if (study.jobs.length) return null;
    return html`<section class="card"><h2>No model reads this study</h2>
      <p>No route of the settings names a model for it. If one should, tell whoever looks after Coread.</p></section>`;
  }
  const read = () => act(async () => {
    await post(`/studies/${study.orthanc_id}/read`);
    tell("The study is read as it is.");
    await reload();
  });
  return html`<section class=${`card ${arriving.stalled ? "attention" : ""}`}>
    <h2>${arriving.stalled ? "The study is stalled" : "The study is arriving"}</h2>
    <p>${sentence(arriving.because)}${arriving.waits_until ? ` It is waited for until ${time(arriving.waits_until)}.` : ""}</p>
    ${arriving.stalled && html`<p><strong>What to do:</strong> have the missing images sent again, or have the study read as it is.</p>`}
    ${may(me, "administer") && html`<p><button type="button" disabled=${busy} onClick=${read}>Read it as it is, now</button></p>`}
    <${Wrong} error=${error} />
  </section>`;
}

function Jobs({ study, me, reload, tell }) {
  const standing = study.jobs.filter((job) => job.state !== "superseded");
  const superseded = study.jobs.filter((job) => job.state === "superseded");
  return html`
    ${standing.map((job) => html`<${Job} key=${job.job_id} job=${job} me=${me} reload=${reload} tell=${tell} />`)}
    ${superseded.length > 0 && html`<details class="card old"><summary>${count(superseded.length, "earlier reading")} of this study, which
      ${superseded.length === 1 ? " does" : " do"} not count any more</summary>
      <ul class="plain">${superseded.map((job) => html`<li key=${job.job_id}>${model(job.model)} ${job.model_version},
        ${fullTime(job.created_at)}: ${sentence(job.reason)}</li>`)}</ul></details>`}`;
}

function Job({ job, me, reload, tell }) {
  const title = `job-${job.job_id}`;
  return html`<section class="card job" aria-labelledby=${title} data-state=${job.state} data-job=${job.job_id}>
    <header class="job-head">
      <h2 id=${title}>${model(job.model)} <span class="version">${job.model_version}</span></h2>
      <p class="tags"><${State} state=${job.state} /><${Research} /></p>
    </header>
    <${Outcome} job=${job} />
    <${Words} job=${job} />
    <${Pictures} job=${job} />
    <${Reviews} job=${job} me=${me} reload=${reload} tell=${tell} />
    <${Actions} job=${job} me=${me} reload=${reload} tell=${tell} />
    <${Results} job=${job} />
    <${How} job=${job} />
  </section>`;
}

function Outcome({ job }) {
  const { what, do: advice } = job.explanation;
  if (job.state === "done") return job.key_finding ? html`<p class="key-finding">${job.key_finding}</p>` : html`<p>${what} ${advice}</p>`;
  return html`<div class=${`outcome ${job.state === "failed" ? "bad" : job.state === "refused" ? "warn" : ""}`}>
    <p>${what}</p>
    ${job.reason && html`<p class="reason"><strong>Reason:</strong> ${sentence(job.reason)}</p>`}
    ${advice && html`<p><strong>What to do:</strong> ${advice}</p>`}
  </div>`;
}

function Words({ job }) {
  if (!job.words.length || job.state !== "done") return null;
  return html`<h3>Findings</h3><ul class="findings">${job.words.map((text, number) => html`<li key=${number}>${text}</li>`)}</ul>`;
}

function Pictures({ job }) {
  if (!job.pictures.length) return null;
  return html`<h3>Key images</h3><div class="pictures">${job.pictures.map((picture, number) => html`<figure key=${number}>
    <a href=${picture.url} target="_blank" rel="noopener"><img src=${picture.url} alt=${`Key image, ${picture.caption}`} loading="lazy" /></a>
    <figcaption>${capital(picture.caption)}</figcaption></figure>`)}</div>`;
}

function Reviews({ job, me, reload, tell }) {
  const [verdict, setVerdict] = useState(null);
  const isOpen = job.may.review && may(me, "review");
  if (!job.reviews.length && !isOpen) return null;
  return html`<h3>Review</h3>
    ${job.reviews.length === 0 && html`<p class="sub">Nobody has reviewed this result.</p>`}
    ${job.reviews.length > 0 && html`<ul class="reviews">${job.reviews.map((review) => html`<${OneReview} key=${review.review_id}
      review=${review} />`)}</ul>`}
    ${isOpen && job.reviews.length > 0 && html`<p class="sub">A further review is added to those before; the last one counts.</p>`}
    ${isOpen && html`<p class="buttons">
      <button type="button" class=${job.reviews.length ? "" : "primary"} onClick=${() => setVerdict("accept")}>Accept …</button>
      <button type="button" class="danger" onClick=${() => setVerdict("reject")}>Reject …</button></p>`}
    ${verdict && html`<${ReviewDialog} verdict=${verdict} job=${job} me=${me} close=${() => setVerdict(null)}
      done=${async () => {
        setVerdict(null);
        tell(verdict === "accept" ? "The result is accepted." : "The result is rejected.");
        await reload();
      }} />`}`;
}

function OneReview({ review }) {
  const written = { asked: "its DICOM object is being written", written: "stored in DICOM", failed: "its DICOM object could not be written" };
  const who = review.reader ? personName(review.reader) : review.who;
  return html`<li><${Review} review=${review.verdict} /> ${who ? `by ${who}` : ""} on ${fullTime(review.at)}
    ${review.reason ? html`<span class="sub">${review.reason.meaning}</span>` : null}
    ${review.comment ? html`<span class="sub">“${review.comment}”</span>` : null}
    <span class="sub">${written[review.state] ?? ""}${review.failure ? `: ${review.failure}` : ""}${review.counts === false ? "; a later review counts" : ""}</span></li>`;
}

function Actions({ job, me, reload, tell }) {
  const { busy, error, act } = useAction();
  const [isAsking, setAsking] = useState(false);
  if (!may(me, "change") || !(job.may.retry || job.may.cancel || job.may.prioritise)) return null;
  const change = (path, said) => act(async () => {
    await post(`/jobs/${job.job_id}/${path}`);
    tell(said);
    await reload();
  });
  return html`<div class="buttons">
    ${job.may.retry && html`<button type="button" disabled=${busy} onClick=${() => change("retry", "The reading is tried again.")}>Retry</button>`}
    ${job.may.cancel && html`<button type="button" disabled=${busy} onClick=${() => setAsking(true)}>Cancel …</button>`}
    ${job.may.prioritise && html`<label class="choice">Priority <select value=${job.priority} disabled=${busy}
      onChange=${(event) => change(`priority/${event.currentTarget.value}`, `The priority is ${event.currentTarget.value} now.`)}>
      ${Object.entries(PRIORITIES).map(([value, text]) => html`<option key=${value} value=${value}>${text}</option>`)}</select></label>`}
    <${Wrong} error=${error} />
    ${isAsking && html`<${Dialog} title="Cancel the reading?" close=${() => setAsking(false)}>
      <p>The study gets no result of ${model(job.model)}. It can be retried later.</p>
      <p class="buttons"><button type="button" class="danger" onClick=${() => { setAsking(false); change("cancel", "The reading is cancelled."); }}>Cancel the reading</button>
      <button type="button" onClick=${() => setAsking(false)}>Keep it</button></p><//>`}
  </div>`;
}

function Results({ job }) {
  const gone = job.results.filter((result) => !result.url).length;
  if (!job.results.length && !job.deliveries.length) return null;
  return html`
    ${job.results.length > 0 && html`<h3>DICOM results, to download</h3><ul class="results">${job.results.map((result) => html`<li key=${result.sop_instance_uid}>
      ${result.url
        ? html`<a class="button" href=${result.url} download=${`${result.kind.toLowerCase().replaceAll(" ", "-")}.dcm`}>${result.title || result.kind}<span class="hidden"> as a DICOM file</span></a>`
        : html`<span class="sub">${result.kind}: not in Orthanc any more</span>`}</li>`)}</ul>
      ${gone > 0 && html`<p class="sub">What is gone was deleted, or replaced when the study changed.</p>`}`}
    ${job.deliveries.length > 0 && html`<h3>Delivered to</h3><ul class="plain">${job.deliveries.map((delivery) => html`<li key=${delivery.delivery_id}>
      ${delivery.destination}: ${delivery.state}${delivery.reason ? ` (${delivery.reason})` : ""}</li>`)}</ul>`}`;
}

function How({ job }) {
  const stages = Object.entries(job.timings);
  const longest = Math.max(...stages.map(([, value]) => value), 0.001);
  return html`<details class="how"><summary>How it was read</summary>
    <dl class="facts">
      <div><dt>Job</dt><dd class="code">${job.job_id}</dd></div>
      <div><dt>Attempts</dt><dd>${job.attempts}</dd></div>
      ${job.worker && html`<div><dt>Worker</dt><dd>${job.worker}</dd></div>`}
      ${job.device && html`<div><dt>Device</dt><dd>${job.device}</dd></div>`}
      <div><dt>Priority</dt><dd>${PRIORITIES[job.priority]}</dd></div>
    </dl>
    ${stages.length > 0 && html`<table class="timings"><caption>Time of each stage</caption>
      <thead><tr><th scope="col">Stage</th><th scope="col">Time</th><th scope="col"><span class="hidden">Share</span></th></tr></thead>
      <tbody>${stages.map(([stage, value]) => html`<tr key=${stage}><th scope="row">${stage}</th><td>${seconds(value)}</td>
      <td><span class="bar" style=${{ width: `${Math.max(1, (100 * value) / longest)}%` }}></span></td></tr>`)}</tbody></table>`}
    <h3>History</h3>
    <ol class="history">${job.history.map((event, number) => html`<li key=${number}><time datetime=${event.at}>${fullTime(event.at)}</time>
      <span>${EVENTS[event.to] ?? event.to}${event.reason ? html`<span class="sub">${event.reason}</span>` : null}</span></li>`)}</ol>
  </details>`;
}
