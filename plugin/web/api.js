// Asks Coread. Every failure is an AskError whose message can be shown to a person.

const ROOT = "/coread";
const PATIENCE_MS = 20000;

export class AskError extends Error {
  // status: 0 if there was no answer at all.
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export function get(path) {
  return ask(path, { method: "GET" });
}

export function post(path, body = {}) {
  const headers = { "Content-Type": "application/json", "X-Coread": "page" };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body) });
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(ROOT + path, {
      ...options, cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(PATIENCE_MS),
    });
  } catch {
    throw new AskError("Orthanc does not answer.", 0);
  }
  let body = null;
  try {
    body = await response.json();
  } catch {
    // An answer without a body, as a proxy's; its status says enough.
  }
  if (response.ok && body !== null) return body;
  throw new AskError(wrong(response.status, body?.error), response.status);
}

function wrong(status, said) {
  if (status === 401) return "You are not signed in. Reload the page to sign in.";
  if (status === 403) return said ? `Not allowed: ${said}` : "You are not allowed to do this.";
  if (status === 404) return said ?? "There is no such thing here.";
  if (status === 502 || status === 504) return "Orthanc does not answer.";
  return said ?? `Coread answered with an error (${status}).`;
}

// Whether it may help to ask again: nobody answered, or a neighbour was away.
export function mayPass(error) {
  return error.status === 0 || error.status >= 500;
}
