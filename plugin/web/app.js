// The page: the list, a study, or archive runs, and what is said aloud when something changes.
import { ArchiveRun, Archives } from "./archives.js";
import { AskError, get, mayPass } from "./api.js";
import { STATES, personName } from "./format.js";
import { List } from "./list.js";
import { archivePath, follow, here, isList, lastList } from "./place.js";
import { firstRows, rows } from "./early.js";
import { Study } from "./study.js";
import { html, render, useEffect, useState } from "./view.js";

const MOST_TOLD = 3;
const SOON_MS = 150;
// Until it is known who looks at the page, nothing is offered that they may not do.
const SOMEBODY = { user: "", name: "", role: "reader", may: ["look"] };
const ASK_AGAIN_MS = 3000;

function App() {
  const [place, setPlace] = useState(here);
  const [, draw] = useState(0);
  const [me, setMe] = useState(null);
  const [told, tell] = useState("");
  rows.changed = () => draw((number) => number + 1);

  useEffect(() => {
    const moved = () => setPlace(here());
    for (const name of ["popstate", "coread-place"]) addEventListener(name, moved);
    const shown = () => !document.hidden && rows.isOn && rows.refresh();
    document.addEventListener("visibilitychange", shown);
    whoAmI().then(setMe);
    rows.start();
    return () => rows.stop();
  }, []);
  useEffect(() => {
    const news = rows.news ?? [];
    rows.news = [];
    if (news.length > MOST_TOLD) tell(`${news.length} studies have changed`);
    else if (news.length) tell(news.map((row) => `${personName(row.patient_name)}: ${STATES[row.state]}`).join("; "));
  });
  return html`
    <a class="skip" href="#main">Skip to content</a>
    <header class="top">
      <a class="brand" href="/coread/ui" onClick=${follow}><span class="mark" aria-hidden="true"></span>Coread</a>
      <span class="about">AI readings · <strong>RESEARCH</strong><span class="wide"> · not for clinical decisions without a radiologist</span></span>
      <nav class="parts" aria-label="Parts of Coread">
        <a href=${isList(place) ? location.pathname + location.search : lastList()}
          aria-current=${place.archives ? null : place.study ? "true" : "page"} onClick=${follow}>Worklist</a>
        <a href=${archivePath()} aria-current=${place.archives ? (place.run ? "true" : "page") : null} onClick=${follow}>Archives</a>
      </nav>
      ${me?.user && html`<span class="who">${me.name ? personName(me.name) : me.user} · ${me.role}</span>`}
    </header>
    <${Shown} place=${place} me=${me ?? SOMEBODY} tell=${tell} />
    <div class="hidden" role="status" aria-live="polite">${told}</div>`;
}

function Shown({ place, me, tell }) {
  if (place.study) return html`<${Study} key=${place.study} id=${place.study} me=${me} rows=${rows} tell=${tell} />`;
  if (place.run) return html`<${ArchiveRun} key=${place.run} id=${place.run} me=${me} tell=${tell} />`;
  if (place.archives) return html`<${Archives} key="archives" tell=${tell} />`;
  return html`<${List} key="list" rows=${rows} tell=${tell} />`;
}

async function whoAmI() {
  for (;;) {
    try {
      return await get("/me");
    } catch (error) {
      if (!(error instanceof AskError)) throw error;
      if (!mayPass(error)) return SOMEBODY;
      await new Promise((done) => setTimeout(done, ASK_AGAIN_MS));
    }
  }
}

// Rows that come soon are drawn with the page at once; drawing it empty before would only keep them waiting.
await Promise.race([firstRows, new Promise((done) => setTimeout(done, SOON_MS))]);
render(html`<${App} />`, document.getElementById("app"));
