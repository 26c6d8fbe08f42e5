// What OHIF's own page says in scripts of the page itself, which the page's policy does not run.
window.PUBLIC_URL = '/ohif/';
window.browserImportFunction = moduleId => import(moduleId);
