// Small parts that the list and a study's page share.
import { html, useLayoutEffect, useRef, useState } from "./view.js";
import { PRIORITIES, REVIEWS, STATES, amount } from "./format.js";

export function State({ state }) {
  return html`<span class="badge" data-state=${state}>${STATES[state] ?? state}</span>`;
}

export function Priority({ priority }) {
  return priority === "stat"
    ? html`<span class="tag stat">Stat</span>`
    : html`<span class="priority">${PRIORITIES[priority] ?? ""}</span>`;
}

export function Review({ review }) {
  return review ? html`<span class="tag" data-review=${review}>${REVIEWS[review] ?? review}</span>` : null;
}

export function Raised() {
  return html`<span class="tag raised" title="A finding has raised this study">Raised</span>`;
}

export function Copy() {
  return html`<span class="tag" title="An archive run has retrieved this study; nobody else has sent it">Archive run</span>`;
}

export function Research() {
  return html`<span class="tag research" title="Not for clinical decisions without a radiologist’s own reading">RESEARCH</span>`;
}

// What is the matter with the connection or the list, above everything else; nothing if all is well.
export function Trouble({ error, problem, building }) {
  if (error) {
    const tail = error.status === 0 || error.status >= 500 ? " What is shown may be out of date; trying again." : "";
    return html`<p class="notice bad" role="alert">${error.message}${tail}</p>`;
  }
  if (problem) return html`<p class="notice warn" role="status">The list may be out of date: ${problem}</p>`;
  if (building) {
    return html`<p class="notice" role="status">The list is being made: ${amount(building)} studies are still to come.</p>`;
  }
  return null;
}

// A dialog of the browser's own: it keeps the focus inside, and Escape closes it.
export function Dialog({ title, close, children }) {
  const dialog = useRef(null);
  useLayoutEffect(() => {
    const before = document.activeElement;
    dialog.current.showModal();
    return () => before?.focus?.();
  }, []);
  return html`<dialog ref=${dialog} aria-labelledby="dialog-title" onClose=${close}>
    <h2 id="dialog-title">${title}</h2>
    ${children}
  </dialog>`;
}

export function Wrong({ error }) {
  return error ? html`<p class="notice bad" role="alert">${error}</p>` : null;
}

export function may(me, what) {
  return me.may.includes(what);
}

// One thing at a time: asks, shows that it is at work, and says what went wrong.
export function useAction() {
  const [state, set] = useState({ busy: false, error: null });
  const act = async (what) => {
    set({ busy: true, error: null });
    try {
      await what();
      set({ busy: false, error: null });
      return true;
    } catch (error) {
      set({ busy: false, error: error.message });
      return false;
    }
  };
  return { ...state, act };
}
