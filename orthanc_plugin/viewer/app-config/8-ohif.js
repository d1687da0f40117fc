// OHIF.

let overlay;
let subscriptions = [];
const extension = {
  id: 'hilum',
  version: '1.0.0',
  preRegistration({ servicesManager, commandsManager, extensionManager }) {
    const { hangingProtocolService } = servicesManager.services;
    extensionManager.getDataSources('orthanc').forEach(askForPriorities);
    overlay = createOverlay(servicesManager, commandsManager, extensionManager, strip);
    strip.follow(overlay);
    const { isRadiograph, hasResult } = overlay;
    hangingProtocolService.addCustomAttribute('hilumIsRadiograph', 'Is a radiograph', isRadiograph);
    hangingProtocolService.addCustomAttribute('hilumHasResult', 'Has an AI result',
      displaySet => isRadiograph(displaySet) && hasResult(displaySet));
    hangingProtocolService.addCustomAttribute('hilumHasRadiograph', 'Has a radiograph',
      (study, { displaySets } = {}) => (displaySets ?? []).some(isRadiograph));
  },
  getHangingProtocolModule: () => [{ name: protocol.id, protocol }],
  onModeEnter() { subscriptions = overlay.start(); },
  onModeExit() { overlay.stop(); subscriptions.splice(0).forEach(subscription => subscription.unsubscribe()); },
};

/** What the viewer shows at this moment, for tests and for support; nothing can be changed through it. */
Object.defineProperty(window, 'hilum', {
  value: Object.freeze({ note: NOTE, status: () => overlay?.status() ?? null }),
});

window.config = {
  name: 'hilum',
  routerBasename: '/ohif',
  extensions: [extension],
  modes: [],
  modesConfiguration: {
    '@ohif/mode-longitudinal': { hangingProtocol: { $set: [protocol.id, 'default'] } },
    '@ohif/mode-microscopy': { hide: { $set: true } }, // its viewer is not installed
  },
  customizationService: [{
    'ohif.tours': { $set: [] },
    'workList.columns': { $apply: withPriorityColumn },
    autoCineModalities: { $set: ['US'] }, // a secondary capture is a picture, not a film
  }],
  showStudyList: true,
  investigationalUseDialog: { option: 'never' }, // our own note is permanent
  disableConfirmationPrompts: true,
  measurementTrackingMode: 'none',
  showWarningMessageForCrossOrigin: false,
  showCPUFallbackMessage: true,
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  maxNumberOfWebWorkers: 3,
  maxNumRequests: { interaction: 100, thumbnail: 5, prefetch: 25 },
  whiteLabeling: {
    createLogoComponentFn: React => {
      react = React;
      return React.createElement('a', { href: '/hilum/', title: 'The studies in the order in which they should be read',
        style: { font: '600 14px Inter, sans-serif', color: '#8fc7ff', whiteSpace: 'nowrap' } }, '\u2190 Reading worklist');
    },
  },
  defaultDataSourceName: 'orthanc',
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
    sourceName: 'orthanc',
    configuration: {
      friendlyName: 'This node', name: 'orthanc',
      qidoRoot: '/dicom-web', wadoRoot: '/dicom-web', wadoUriRoot: '/wado',
      qidoSupportsIncludeField: false, supportsFuzzyMatching: false, supportsWildcard: true, supportsReject: false,
      imageRendering: 'wadors', thumbnailRendering: 'wadors', enableStudyLazyLoad: true, dicomUploadEnabled: false,
      omitQuotationForMultipartRequest: true, bulkDataURI: { enabled: true, relativeResolution: 'studies' },
    },
  }],
};
