// Where in the page we are: /coread/ui is the list, /coread/ui/study/{orthanc id} a study, /coread/ui/archives the archive
// runs, /coread/ui/archives/{run id} one of them. The list's questions stand in the query string, so that a link to them
// can be kept or sent.
const ROOT = "/coread/ui";
const ASKED = ["search", "state", "model", "priority", "modality", "flag", "review", "archive", "sort", "order"];

export function studyPath(orthancId) {
  return `${ROOT}/study/${encodeURIComponent(orthancId)}`;
}

export function archivePath(runId = "") {
  return runId ? `${ROOT}/archives/${encodeURIComponent(runId)}` : `${ROOT}/archives`;
}

export function listPath(asked) {
  const words = new URLSearchParams(Object.entries(asked).filter(([, value]) => value)).toString();
  return words ? `${ROOT}?${words}` : ROOT;
}

export function here() {
  const parts = location.pathname.slice(ROOT.length).split("/").filter(Boolean);
  const named = parts[1] ? decodeURIComponent(parts[1]) : null;
  return {
    study: parts[0] === "study" ? named : null,
    archives: parts[0] === "archives",
    run: parts[0] === "archives" ? named : null,
  };
}

export function asked() {
  const words = new URLSearchParams(location.search);
  return Object.fromEntries(ASKED.map((name) => [name, words.get(name) ?? ""]));
}

// The list as it was left.
export function lastList() {
  return list;
}

let list = ROOT;

export function isList({ study, archives }) {
  return !study && !archives;
}

export function go(path) {
  if (isList(here())) list = location.pathname + location.search;
  history.pushState(null, "", path);
  dispatchEvent(new Event("coread-place"));
}

// Follows a link inside the page without loading it anew; other keys and buttons do what the browser does.
export function follow(event) {
  const link = event.currentTarget;
  if (event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  go(link.getAttribute("href"));
}
