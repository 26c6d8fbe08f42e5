// The dialog in which a person accepts or rejects a result.
import { get, post } from "./api.js";
import { model, personName } from "./format.js";
import { Dialog, useAction } from "./parts.js";
import { html, useEffect, useRef, useState } from "./view.js";

const LONGEST_COMMENT = 1024;
const LONGEST_NAME = 31; // of a part; with the sign between them, a name has at most 64 characters (PS3.5 6.2)

export function ReviewDialog({ verdict, job, me, close, done }) {
  const isAccept = verdict === "accept";
  const { busy, error, act } = useAction();
  const [reasons, setReasons] = useState(null);
  const [missing, setMissing] = useState(null);
  const choices = useRef(null);
  useEffect(() => {
    if (!isAccept) get("/rejection-reasons").then(setReasons, (found) => setMissing(found.message));
  }, []);
  useEffect(() => {
    // The comment has the focus only because there was nothing before it yet.
    if (reasons && document.activeElement?.value === "") choices.current?.querySelector("input")?.focus();
  }, [reasons]);
  const send = async (event) => {
    event.preventDefault();
    const said = new FormData(event.currentTarget);
    const part = (name) => (said.get(name) ?? "").trim();
    const name = [part("family"), part("given")].join("^").replace(/\^$/, "");
    const body = { verdict };
    if (part("reason")) body.reason = part("reason");
    if (part("comment")) body.comment = part("comment");
    if (name) body.name = name;
    if (await act(() => post(`/jobs/${job.job_id}/review`, body))) await done();
  };
  return html`<${Dialog} title=${isAccept ? "Accept the result?" : "Reject the result?"} close=${close}>
    <form onSubmit=${send}>
      <p>${model(job.model)} ${job.model_version}${job.key_finding ? `: ${job.key_finding}` : ""}</p>
      <p class="sub">${isAccept
        ? `A verified report in ${me.name ? `the name of ${personName(me.name)}` : "your name"} is stored with the study.`
        : "A rejection note with the reason is stored with the study. Depending on the settings, the result is not delivered any further."}</p>
      ${!isAccept && html`<fieldset ref=${choices}><legend>Reason</legend>
        ${missing && html`<p class="notice bad" role="alert">${missing}</p>`}
        ${!reasons && !missing && html`<p class="sub">Loading the reasons …</p>`}
        ${(reasons ?? []).map((reason) => html`<label class="radio" key=${reason.code}><input type="radio" name="reason"
          value=${reason.code} required /> <span>${reason.meaning}${reason.words && html`<span class="sub">${reason.words}</span>`}</span></label>`)}
      </fieldset>`}
      ${isAccept && !me.name && html`<fieldset class="reader"><legend>Your name, as it stands in the report</legend>
        <label>Family name <input name="family" required maxlength=${LONGEST_NAME} autocomplete="family-name" /></label>
        <label>Given name <input name="given" maxlength=${LONGEST_NAME} autocomplete="given-name" /></label></fieldset>`}
      <label class="comment">Comment (optional)<textarea name="comment" rows="3" maxlength=${LONGEST_COMMENT}
        aria-describedby="comment-hint"></textarea></label>
      <p class="sub" id="comment-hint">Do not name the patient here.</p>
      ${error && html`<p class="notice bad" role="alert">${error}</p>`}
      <p class="buttons"><button type="submit" class=${isAccept ? "primary" : "danger"} disabled=${busy}>${isAccept ? "Accept" : "Reject"}</button>
        <button type="button" onClick=${close}>Back</button></p>
    </form><//>`;
}
