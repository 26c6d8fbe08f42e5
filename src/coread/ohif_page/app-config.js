// OHIF beside Coread: the images come from the Orthanc that serves this page, and from nowhere else.
window.config = {
  routerBasename: '/ohif',
  extensions: [],
  modes: [],
  customizationService: { 'ohif.tours': { $set: [] } }, // no tour in front of the images
  disableConfirmationPrompts: true, // a result is shown when it is clicked, and not asked about
  showStudyList: false, // Coread has a list of its own
  maxNumberOfWebWorkers: 3,
  showWarningMessageForCrossOrigin: false,
  showCPUFallbackMessage: true,
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  investigationalUseDialog: { option: 'never' }, // every result says RESEARCH by itself
  maxNumRequests: { interaction: 100, thumbnail: 25, prefetch: 10 },
  showErrorDetails: 'always',
  defaultDataSourceName: 'orthanc',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'orthanc',
      configuration: {
        friendlyName: 'Orthanc',
        name: 'orthanc',
        wadoUriRoot: '/dicom-web',
        qidoRoot: '/dicom-web',
        wadoRoot: '/dicom-web',
        qidoSupportsIncludeField: false,
        supportsReject: false,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        enableStudyLazyLoad: true,
        dicomUploadEnabled: false,
        omitQuotationForMultipartRequest: true,
        bulkDataURI: { enabled: true },
      },
    },
  ],
};
