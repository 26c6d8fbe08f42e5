// What OHIF's packages look for at their import. To be imported before them.

import { Console } from 'node:console';

globalThis.console = new Console(process.stderr); // standard output is for the answer
globalThis.HTMLDivElement = class {}; // annotations ask whether they were given one
