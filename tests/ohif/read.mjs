// Reads a result object as the OHIF viewer does, and prints what the viewer would show as JSON.
//
//   node read.mjs seg SEG.dcm SOURCE.dcm...
//   node read.mjs sr SR.dcm SOURCE.dcm...
//
// The readers are OHIF's: its extensions for SEG and SR, its metadata provider and its display sets, as published. Ours
// are only the services around them that need a screen or an archive: files stand for the archive.
// Exits with 1 where the viewer fails to load the object; {"loads": false, "error": ...} says why.

import './browser.mjs';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import * as adapters from '@cornerstonejs/adapters';
import * as cornerstone from '@cornerstonejs/core';
import * as metadata from '@cornerstonejs/metadata';
import * as tools from '@cornerstonejs/tools';
import * as dcmjs from 'dcmjs';
import * as glMatrix from 'gl-matrix';

const IMAGES = 'the images';
const FRAME_DATA = metadata.Enums.MetadataModules.COMPRESSED_FRAME_DATA;
const UNCOMPRESSED = ['1.2.840.10008.1.2', '1.2.840.10008.1.2.1'];

// The measurement types that OHIF's measurement panel takes.
const PANEL_TYPES = [
  'Angle',
  'ArrowAnnotate',
  'Bidirectional',
  'CircleROI',
  'CobbAngle',
  'EllipticalROI',
  'Length',
  'LivewireContour',
  'PlanarFreehandROI',
  'Probe',
  'RectangleROI',
  'SegmentBidirectional',
  'SplineROI',
];

const packages = {
  '@cornerstonejs/adapters': adapters,
  '@cornerstonejs/core': cornerstone,
  '@cornerstonejs/metadata': metadata,
  '@cornerstonejs/tools': tools,
  dcmjs,
  'gl-matrix': glMatrix,
};

/** Stands for everything of the user interface: may be called, and has every property. */
function screen() {
  return new Proxy(function () {}, {
    get: (target, key) => {
      if (key === 'prototype') return target.prototype;
      if (key === Symbol.toPrimitive) return () => '';
      return key === '__esModule' ? false : screen();
    },
    set: () => true,
    apply: () => screen(),
  });
}

/** Loads a published bundle of OHIF, which expects a browser. */
function bundle(name) {
  const code = readFileSync(createRequire(import.meta.url).resolve(name), 'utf8');
  const module = { exports: {} };
  const required = id => packages[id] ?? screen();
  const browser = { window: globalThis, self: globalThis, document: screen(), navigator: { platform: '', userAgent: '' } };
  const names = ['module', 'exports', 'require', ...Object.keys(browser)];
  new Function(...names, code)(module, module.exports, required, ...Object.values(browser));
  packages[name] = module.exports;
  return module.exports;
}

const { DicomMetadataStore, DisplaySetService, classes } = bundle('@ohif/core');
const segExtension = bundle('@ohif/extension-cornerstone-dicom-seg').default;
const srExtension = bundle('@ohif/extension-cornerstone-dicom-sr');

function bytesOf(path) {
  return new Uint8Array(readFileSync(path));
}

function instanceOf(path) {
  const file = dcmjs.data.DicomMessage.readFile(bytesOf(path).buffer);
  const instance = dcmjs.data.DicomMetaDictionary.naturalizeDataset(file.dict);
  instance._meta = dcmjs.data.DicomMetaDictionary.namifyDataset(file.meta);
  instance.imageId = imageIdsOf(instance)[0];
  return instance;
}

function imageIdsOf({ StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID, NumberOfFrames }) {
  const place = `studies/${StudyInstanceUID}/series/${SeriesInstanceUID}/instances/${SOPInstanceUID}`;
  return Array.from({ length: Number(NumberOfFrames) || 1 }, (_, index) => `wadors:/${place}/frames/${index + 1}`);
}

/** SOP Instance UID and frame number of an image; both null where there is no such image. */
function nameOf(imageId) {
  const uids = imageId && classes.MetadataProvider.getUIDsFromImageID(imageId);
  return { sop_instance_uid: uids?.SOPInstanceUID ?? null, frame: uids ? Number(uids.frameNumber) : null };
}

/** What OHIF's extensions ask for besides the object: services, and an archive that holds these files. */
function viewerWith(sources, hydrated) {
  cornerstone.metaData.addProvider(classes.MetadataProvider.get.bind(classes.MetadataProvider), 9999);
  DicomMetadataStore.addInstances(sources);
  const displaySetService = new DisplaySetService();
  displaySetService.addDisplaySets({
    displaySetInstanceUID: IMAGES,
    StudyInstanceUID: sources[0].StudyInstanceUID,
    SeriesInstanceUID: sources[0].SeriesInstanceUID,
    FrameOfReferenceUID: sources[0].FrameOfReferenceUID,
    Modality: sources[0].Modality,
    instances: sources,
    images: sources,
    imageIds: sources.flatMap(imageIdsOf),
  });
  const archive = {
    getImageIdsForDisplaySet: displaySet => displaySet.imageIds ?? [],
    getImageIdsForInstance: ({ instance, frame }) => imageIdsOf(instance)[(frame ?? 1) - 1],
    getConfig: () => ({ loadMultiframeAsPart10: false }),
    retrieve: {},
  };
  const services = {
    displaySetService,
    customizationService: { getCustomization: name => (name === 'codingValues' ? {} : undefined) },
    measurementService: {
      getSource: () => ({}),
      getSourceMappings: () => PANEL_TYPES.map(annotationType => ({ annotationType })),
      addRawMeasurement: (_source, type, { annotation }) => hydrated.push({ type, annotation }),
    },
    segmentationService: { EVENTS: {}, _broadcastEvent() {}, async createSegmentationForSEGDisplaySet() {} },
    uiNotificationService: { show: ({ message }) => console.error(message) },
  };
  const dataSources = [archive];
  return {
    servicesManager: { services },
    extensionManager: { getDataSources: () => dataSources, getActiveDataSource: () => dataSources },
    commandsManager: { runCommand() {} },
  };
}

function displaySetOf(extension, instance, managers) {
  DicomMetadataStore.addInstances([instance]);
  const handlers = extension.getSopClassHandlerModule(managers);
  const handler = handlers.find(({ sopClassUids }) => sopClassUids.includes(instance.SOPClassUID));
  if (!handler) throw new Error(`OHIF has no reader for SOP class ${instance.SOPClassUID}`);
  const [displaySet] = handler.getDisplaySetsFromSeries([instance]);
  managers.servicesManager.services.displaySetService.addDisplaySets(displaySet);
  return displaySet;
}

/** How many pixels of an image are `number`, and where: the mean (row, column), from 0. */
function extentOf(number, { pixels, columns }) {
  let voxels = 0;
  let [rows_sum, columns_sum] = [0, 0];
  pixels.forEach((value, index) => {
    if (value !== number) return;
    voxels += 1;
    rows_sum += Math.floor(index / columns);
    columns_sum += index % columns;
  });
  return { voxels, centre: [rows_sum / voxels, columns_sum / voxels] };
}

/** The frames of a SEG, as OHIF cuts them out of the file that it fetches from an archive. */
async function framesOf(path, instance) {
  const { imageId } = instance;
  metadata.registerDefaultProviders();
  await metadata.utilities.addDicomPart10Instance(imageId, bytesOf(path).buffer);
  return imageIdsOf(instance).map((_, frameIndex) => {
    const frame = cornerstone.metaData.getTyped(FRAME_DATA, imageId, { frameIndex });
    if (!UNCOMPRESSED.includes(frame.transferSyntaxUid)) throw new Error('the codecs of OHIF need a browser');
    const [pixels] = [frame.pixelData].flat();
    return pixels;
  });
}

async function readSegmentation(path, sources) {
  const managers = viewerWith(sources, []);
  const instance = instanceOf(path);
  const frames = await framesOf(path, instance);
  cornerstone.imageLoader.registerImageLoader('wadors', imageId => ({
    promise: Promise.resolve({ imageId, getPixelData: () => frames[nameOf(imageId).frame - 1] }),
  }));
  const displaySet = displaySetOf(segExtension, instance, managers);
  await displaySet.load({ headers: {} });
  const planes = displaySet.labelMapImages.flat().map(image => ({
    ...nameOf(image.referencedImageId),
    pixels: image.voxelManager.getScalarData(),
    columns: image.columns,
  }));
  const { data } = displaySet.segMetadata;
  const segments = data.slice(1).map(segment => {
    const number = Number(segment.SegmentNumber);
    const images = planes
      .map(plane => ({ sop_instance_uid: plane.sop_instance_uid, frame: plane.frame, ...extentOf(number, plane) }))
      .filter(({ voxels }) => voxels > 0);
    return {
      number,
      label: segment.SegmentLabel,
      type: segment.SegmentedPropertyTypeCodeSequence?.CodeMeaning ?? '',
      colour: [...(data[number]?.rgba ?? [])].slice(0, 3), // OHIF looks colours up by place, not by number
      voxels: images.reduce((sum, { voxels }) => sum + voxels, 0),
      frames: images.length,
      images,
    };
  });
  return { loads: true, segments };
}

const codeOf = code => code && { scheme: code.CodingSchemeDesignator, value: code.CodeValue, meaning: code.CodeMeaning };
const triples = points => (points ?? []).map(point => Array.from(point));

/** A measurement as it stands in OHIF's panel, once the user has taken it over. */
function panelEntry({ type, annotation }) {
  const { data, metadata } = annotation;
  return {
    type,
    label: data.label ?? null,
    finding: codeOf(data.finding) ?? null,
    sites: (data.findingSites ?? []).map(codeOf),
    ...nameOf(metadata.referencedImageId),
    closed: data.contour?.closed ?? null,
    points: triples(data.contour?.polyline ?? data.handles?.points),
    statistics: Object.values(data.cachedStats ?? {})[0] ?? {},
  };
}

async function readReport(path, sources) {
  const instance = instanceOf(path);
  const hydrated = [];
  const managers = viewerWith(sources, hydrated);
  const displaySet = displaySetOf(srExtension.default, instance, managers);
  await displaySet.load();

  // The panel's measurements do not say which group they are from; what the adapters made of the groups does.
  const states = [];
  const { MeasurementReport } = adapters.adaptersSR.Cornerstone3D;
  const generateToolState = MeasurementReport.generateToolState.bind(MeasurementReport);
  MeasurementReport.generateToolState = (...given) => {
    const made = generateToolState(...given);
    states.push(...Object.values(made).flat());
    return made;
  };
  if (displaySet.isRehydratable) srExtension.hydrateStructuredReport(managers, displaySet.displaySetInstanceUID);
  const inPanel = new Map();
  for (const entry of hydrated) {
    const state = states.find(({ annotation }) => annotation.data === entry.annotation.data);
    inPanel.set(state.TrackingUniqueIdentifier, panelEntry(entry));
  }

  const drawn = new Map();
  for (const { data } of tools.annotation.state.getAllAnnotations()) drawn.set(data.TrackingUniqueIdentifier, data);
  const measurements = displaySet.measurements.map(measurement => {
    const annotation = drawn.get(measurement.TrackingUniqueIdentifier);
    return {
      tracking_uid: measurement.TrackingUniqueIdentifier,
      tracking_identifier: measurement.TrackingIdentifier,
      shown: measurement.loaded && annotation !== undefined,
      ...nameOf(measurement.imageId),
      graphic_type: measurement.coords[0]?.GraphicType ?? null,
      points: Object.values(annotation?.renderableData ?? {}).flatMap(graphics => graphics.flatMap(triples)),
      labels: measurement.labels,
      panel: inPanel.get(measurement.TrackingUniqueIdentifier) ?? null,
    };
  });
  return { loads: true, is_measurement_report: displaySet.isImagingMeasurementReport, measurements };
}

const readers = { seg: readSegmentation, sr: readReport };
const [kind, path, ...sourcePaths] = process.argv.slice(2);
if (!(kind in readers) || !sourcePaths.length) {
  console.error('usage: node read.mjs seg|sr RESULT.dcm SOURCE.dcm...');
  process.exit(2);
}
let answer;
try {
  answer = await readers[kind](path, sourcePaths.map(instanceOf));
} catch (error) {
  console.error(error);
  answer = { loads: false, error: `${error.name}: ${error.message}` };
  process.exitCode = 1;
}
process.stdout.write(`${JSON.stringify(answer)}\n`);
