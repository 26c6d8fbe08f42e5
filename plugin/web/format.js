// DICOM's values and Coread's words, as people read them.

export const STATES = {
  stalled: "Stalled",
  arriving: "Arriving",
  failed: "Failed",
  storing: "Storing",
  running: "Being read",
  queued: "Queued",
  waiting: "Waiting",
  done: "Done",
  refused: "Refused",
  cancelled: "Cancelled",
  superseded: "Superseded",
  "not-routed": "No model",
};
// An archive run, and each of its studies.
export const RUNS = { loading: "Loading", running: "Running", paused: "Paused", finished: "Finished", cancelled: "Cancelled" };
export const RUN_STUDIES = {
  due: "Due", retrieving: "Being retrieved", here: "Here", reading: "Being read", collected: "Collected", done: "Done",
  refused: "Refused", failed: "Failed", cancelled: "Cancelled",
};
export const PRIORITIES = { stat: "Stat", routine: "Routine", batch: "Batch" };
export const REVIEWS = { accepted: "Accepted", edited: "Corrected", rejected: "Rejected" };
const SEXES = { F: "female", M: "male", O: "other" };

// Each is slow to make, and made when it is first needed.
const format = { hour: dates({ hour: "2-digit", minute: "2-digit" }), day: dates({ day: "numeric", month: "short" }),
  full: dates({ dateStyle: "medium", timeStyle: "medium" }) };
const numbers = once(() => new Intl.NumberFormat("en-GB"));

function dates(options) {
  return once(() => new Intl.DateTimeFormat("en-GB", options));
}

function once(make) {
  let made;
  return () => (made ??= make());
}

// PN (PS3.5 6.2.1.1): Family^Given^Middle^Prefix^Suffix, in up to three ways of writing.
export function personName(value) {
  const ways = value.split("=").map(oneWay).filter(Boolean);
  if (!ways.length) return "No name";
  return ways.length > 1 ? `${ways[0]} (${ways.slice(1).join(" / ")})` : ways[0];
}

function oneWay(group) {
  const [family = "", given = "", middle = "", prefix = "", suffix = ""] = group.split("^").map((part) => part.trim());
  const rest = [prefix, given, middle, suffix].filter(Boolean).join(" ");
  return [family, rest].filter(Boolean).join(", ");
}

// DA: 20260131 → 2026-01-31. What is no date is shown as it is.
export function date(value) {
  return /^\d{8}$/.test(value) ? `${value.slice(0, 4)}-${value.slice(4, 6)}-${value.slice(6)}` : value;
}

export function sex(value) {
  return SEXES[value] ?? value;
}

// Today's times without the day.
export function time(iso) {
  if (!iso) return "";
  const at = new Date(iso);
  const isToday = at.toDateString() === new Date().toDateString();
  return isToday ? format.hour().format(at) : `${format.day().format(at)}, ${format.hour().format(at)}`;
}

export function fullTime(iso) {
  return iso ? format.full().format(new Date(iso)) : "";
}

export function seconds(value) {
  if (value < 10) return `${value.toFixed(2)} s`;
  if (value < 120) return `${value.toFixed(1)} s`;
  return `${Math.round(value / 60)} min`;
}

// Roughly, of what may take weeks.
export function duration(value) {
  const minutes = Math.ceil(value / 60);
  if (minutes < 100) return count(minutes, "minute");
  const hours = Math.round(value / 3600);
  return hours < 48 ? count(hours, "hour") : count(Math.round(value / 86400), "day");
}

// left_ventricle_sax → Left ventricle sax: names of models are made to be typed, not read.
export function model(name) {
  return capital(name.replaceAll("_", " "));
}

export function amount(number) {
  return numbers().format(number);
}

export function count(number, one, several = `${one}s`) {
  return `${amount(number)} ${number === 1 ? one : several}`;
}

// Reasons begin like log lines, in lower case and without an end.
export function sentence(text) {
  if (!text) return "";
  const first = capital(text);
  return /[.!?…]$/.test(first) ? first : `${first}.`;
}

export function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

// Only what a link may lead to; a setting could hold javascript:.
export function safeUrl(url) {
  try {
    const { protocol } = new URL(url, location.href);
    return protocol === "http:" || protocol === "https:" ? url : null;
  } catch {
    return null;
  }
}
