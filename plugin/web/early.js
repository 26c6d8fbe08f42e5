// Asks for the list before anything else is loaded: the answer is on its way while the rest of the page is.
import { asked, here, isList } from "./place.js";
import { Rows } from "./rows.js";

export const rows = new Rows();
export const firstRows = isList(here()) ? rows.ask(asked()) : null;
