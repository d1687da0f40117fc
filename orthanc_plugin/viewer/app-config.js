/* Hilum's configuration of OHIF 3.13, served live as /ohif/app-config.js. Nothing of OHIF is rebuilt.
 *
 * What it adds: a study with radiographs opens with each radiograph, the newest Hilum SEG drawn over it and the boxes of
 * the newest Hilum SR, labelled and locked, without a click; a permanent note that the results are not verified; a link
 * back to the worklist. Everything else is OHIF as its authors made it.
 *
 * The rule: whatever fails here, the radiograph stays on the screen. A result that cannot be drawn is named in the
 * console and in window.hilum, and the note says so.
 */
(() => {
  'use strict';

  const NOTE = 'AI result, not verified \u2013 research software, not a medical device';
  const MANUFACTURER = 'Hilum'; // as dicom_sr writes it; results of others load by a click, as OHIF does it
  const RADIOGRAPHS = ['CR', 'DX'];
  const PATIENCE_SECONDS = 60;
  const COLOUR_ATTEMPTS = 100; // of 0.1 s
  const BOX_TOOL = 'RectangleROI';
  const SR_AND_SEG_HANDLERS = [
    '@ohif/extension-cornerstone-dicom-seg.sopClassHandlerModule.dicom-seg',
    '@ohif/extension-cornerstone-dicom-sr.sopClassHandlerModule.dicom-sr',
    '@ohif/extension-cornerstone-dicom-sr.sopClassHandlerModule.dicom-sr-3d',
  ];
  const BOX_STYLE = { color: 'rgb(255, 196, 0)', colorSelected: 'rgb(255, 196, 0)', colorHighlighted: 'rgb(255, 221, 96)',
    colorLocked: 'rgb(255, 196, 0)', lineWidth: '1.5', lineDash: '', textBoxColor: 'rgb(255, 196, 0)',
    textBoxColorLocked: 'rgb(255, 196, 0)', textBoxFontSize: '14px',
    textBoxBackground: 'rgba(0, 0, 0, 0.6)' };
  const OVERLAY_STYLE = { fillAlpha: 0.08, fillAlphaInactive: 0.08, outlineWidth: 2, outlineWidthInactive: 2 };

  // --- requests ------------------------------------------------------------------------------------------------------
  // Orthanc's DICOMweb plugin takes "includefield=a%2Cb" for one unknown field and answers without any description.
  const openRequest = XMLHttpRequest.prototype.open;
  XMLHttpRequest.prototype.open = function open(method, url, ...rest) {
    const repeated = String(url).replace(/includefield=([^&]*)/gi, (_, fields) =>
      fields.split(/%2C|,/i).map(field => `includefield=${field}`).join('&'));
    return openRequest.call(this, method, repeated, ...rest);
  };

  // --- which result belongs to which image ---------------------------------------------------------------------------
  const list = value => (value === undefined || value === null ? [] : Array.isArray(value) ? value : [value]);

  const isRadiograph = displaySet =>
    RADIOGRAPHS.includes(displaySet?.Modality) && (displaySet.images?.length ?? 0) > 0;

  const imageUid = displaySet => displaySet.images[0].SOPInstanceUID;

  /** UIDs of the images that a SEG (Referenced Series) or an SR (Current Requested Procedure Evidence) was made from. */
  function sources(instance) {
    const series = [
      ...list(instance.ReferencedSeriesSequence),
      ...list(instance.CurrentRequestedProcedureEvidenceSequence).flatMap(study => list(study.ReferencedSeriesSequence)),
    ];
    return new Set(series
      .flatMap(s => [...list(s.ReferencedInstanceSequence), ...list(s.ReferencedSOPSequence)])
      .map(reference => reference.ReferencedSOPInstanceUID));
  }

  const writtenAt = ({ instance }) =>
    `${instance.ContentDate || instance.SeriesDate || ''} ${instance.ContentTime || instance.SeriesTime || ''}`;

  /** The newest of our results of one kind for one radiograph, or undefined. */
  function newestResult(displaySetService, radiograph, modality) {
    return displaySetService.getActiveDisplaySets()
      .filter(d => d.Modality === modality && d.instance?.Manufacturer === MANUFACTURER)
      .filter(d => d.StudyInstanceUID === radiograph.StudyInstanceUID)
      .filter(d => modality !== 'SR' || d.isImagingMeasurementReport)
      .filter(d => sources(d.instance).has(imageUid(radiograph)))
      .sort((a, b) => writtenAt(b).localeCompare(writtenAt(a)) || b.SOPInstanceUID.localeCompare(a.SOPInstanceUID))[0];
  }

  // --- drawing -------------------------------------------------------------------------------------------------------
  function createOverlay(servicesManager, commandsManager, extensionManager) {
    const { displaySetService, cornerstoneViewportService, viewportGridService, segmentationService, measurementService,
      toolGroupService, userAuthenticationService, customizationService } = servicesManager.services;
    const problems = [];
    const pending = new Map(); // one piece of work per viewport and per report, however many events arrive
    const drawn = new Map(); // viewport -> the radiograph whose results have been dealt with there
    let entered = false;

    const radiographIn = viewportId => (viewportGridService.getDisplaySetsUIDsForViewport(viewportId) ?? [])
      .map(uid => displaySetService.getDisplaySetByUID(uid))
      .find(isRadiograph);

    function report(what, displaySet, error) {
      console.warn(`Hilum: ${what} cannot be shown`, error);
      problems.push({ what, sopInstanceUid: displaySet.SOPInstanceUID, message: String(error?.message ?? error) });
      document.getElementById('hilum-problem')?.removeAttribute('hidden');
    }

    /** OHIF waits for ever for some malformed SEG; nobody should wait with it. */
    function patiently(work) {
      let timer;
      const limit = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`not loaded after ${PATIENCE_SECONDS} s`)), PATIENCE_SECONDS * 1000);
      });
      return Promise.race([work, limit]).finally(() => clearTimeout(timer));
    }

    /**
     * Cornerstone can put a segmentation on the screen before it has its colours, above all in a second viewport: then it
     * is an opaque black shape on the lungs. Ask for the colours until they are there, or take it off again.
     */
    async function colour(viewportId, segmentationId) {
      const { segmentation } = window.cornerstoneTools;
      const hasColours = () => {
        const shapes = (cornerstoneViewportService.getCornerstoneViewport(viewportId)?.getActors() ?? [])
          .filter(shape => shape.representationUID?.startsWith(segmentationId));
        return shapes.length > 0 && shapes.every(shape => shape.actor.getProperty().getRGBTransferFunction?.(0));
      };
      for (let attempt = 0; attempt < COLOUR_ATTEMPTS && !hasColours(); attempt += 1) {
        segmentation.triggerSegmentationEvents.triggerSegmentationRepresentationModified(viewportId, segmentationId, 'Labelmap');
        await new Promise(resolve => { setTimeout(resolve, 100); });
      }
      if (hasColours()) return;
      segmentationService.removeRepresentationsFromViewport(viewportId, { segmentationId });
      throw new Error('the segmentation got no colours');
    }

    async function drawSegmentation(viewportId, radiograph) {
      const seg = newestResult(displaySetService, radiograph, 'SEG');
      if (!seg) return;
      const segmentationId = seg.displaySetInstanceUID;
      // Where the SEG's header arrived before the image's, OHIF took any image of the referenced series.
      seg.referencedDisplaySetInstanceUID = radiograph.displaySetInstanceUID;
      if (!segmentationService.getSegmentation(segmentationId)) {
        await patiently(seg.load({ headers: userAuthenticationService.getAuthorizationHeader() }));
      }
      // The viewport may have been given another image while the SEG was on its way.
      if (radiographIn(viewportId) !== radiograph) return;
      if (segmentationService.getSegmentationRepresentations(viewportId, { segmentationId }).length) return;
      await segmentationService.addSegmentationRepresentation(viewportId, { segmentationId, type: 'Labelmap' });
      segmentationService.setStyle({ viewportId, segmentationId, type: 'Labelmap' }, OVERLAY_STYLE);
      await colour(viewportId, segmentationId);
      for (const index of Object.keys(segmentationService.getSegmentation(segmentationId)?.segments ?? {})) {
        segmentationService.setSegmentLocked(segmentationId, Number(index), true);
      }
    }

    async function drawBoxes(radiograph) {
      const sr = newestResult(displaySetService, radiograph, 'SR');
      if (!sr || sr.isHydrated) return;
      if (!sr.isLoaded) await patiently(sr.load());
      if (!sr.isRehydratable || sr.isHydrated) return;
      const before = new Set(measurementService.getMeasurements().map(m => m.uid));
      await commandsManager.runCommand('hydrateStructuredReport', { displaySetInstanceUID: sr.displaySetInstanceUID });
      const { annotation } = window.cornerstoneTools;
      for (const { uid } of measurementService.getMeasurements().filter(m => !before.has(m.uid))) {
        const box = annotation.state.getAnnotation(uid);
        if (!box) continue;
        box.data.hilumLabel = box.data.label || 'AI finding';
        annotation.locking.setAnnotationLocked(uid, true);
        annotation.config.style.setAnnotationStyles(uid, BOX_STYLE);
      }
    }

    /** Our boxes carry their finding; the area and mean of raw pixel values that OHIF writes would be noise. */
    function labelBoxes() {
      for (const id of toolGroupService.getToolGroupIds()) {
        const tool = toolGroupService.getToolGroup(id)?.getToolInstance?.(BOX_TOOL);
        if (!tool || tool.configuration.labelsHilum) continue;
        const usual = tool.configuration.getTextLines;
        const getTextLines = (data, target) => (data.hilumLabel ? [data.hilumLabel] : usual(data, target));
        Object.assign(tool.configuration, { getTextLines, labelsHilum: true });
      }
    }

    /** Starts a piece of work unless it runs already; its failure is told and goes no further. */
    function once(key, what, displaySet, work) {
      if (pending.has(key)) return pending.get(key);
      const running = work()
        .catch(error => report(what, displaySet, error))
        .finally(() => pending.delete(key));
      pending.set(key, running);
      return running;
    }

    async function draw(viewportId) {
      const radiograph = radiographIn(viewportId);
      if (!radiograph) return;
      labelBoxes();
      await Promise.all([
        once(`${viewportId} ${imageUid(radiograph)}`, 'SEG', radiograph, () => drawSegmentation(viewportId, radiograph)),
        once(imageUid(radiograph), 'SR', radiograph, () => drawBoxes(radiograph)),
      ]);
      cornerstoneViewportService.getCornerstoneViewport(viewportId)?.render();
      drawn.set(viewportId, imageUid(radiograph));
    }

    const everywhere = () => [...viewportGridService.getState().viewports.keys()].forEach(draw);

    /** OHIF shows only the last SR or SEG of a series; ours share a series when a study has several radiographs. */
    function oneDisplaySetPerResult() {
      for (const id of SR_AND_SEG_HANDLERS) {
        const handler = extensionManager.getModuleEntry(id);
        if (!handler || handler.onePerInstance) continue;
        const usual = handler.getDisplaySetsFromSeries;
        handler.getDisplaySetsFromSeries = instances => instances.flatMap(instance =>
          list(usual([instance])).map(displaySet => Object.assign(displaySet, { addInstances: undefined })));
        handler.onePerInstance = true;
      }
    }

    function start() {
      oneDisplaySetPerResult();
      drawn.clear();
      problems.length = 0;
      document.getElementById('hilum-problem')?.setAttribute('hidden', '');
      entered = true;
      customizationService.setCustomizations({ 'panelMeasurement.disableEditing': { $set: true } });
      return [
        cornerstoneViewportService.subscribe(cornerstoneViewportService.EVENTS.VIEWPORT_DATA_CHANGED,
          ({ viewportId }) => draw(viewportId)),
        displaySetService.subscribe(displaySetService.EVENTS.DISPLAY_SETS_ADDED, everywhere),
      ];
    }

    function stop() {
      entered = false;
    }

    function status() {
      if (!entered) return null;
      const { annotation } = window.cornerstoneTools ?? {};
      const viewports = [...viewportGridService.getState().viewports.keys()].map(viewportId => {
        const radiograph = radiographIn(viewportId);
        return {
          viewportId,
          radiograph: radiograph ? imageUid(radiograph) : null,
          segmentations: segmentationService.getSegmentationRepresentations(viewportId).map(r => ({
            label: r.label,
            segments: Object.values(r.segments).map(s => ({
              index: s.segmentIndex, label: segmentationService.getSegmentation(r.segmentationId)?.segments[s.segmentIndex]?.label,
              color: [...s.color], visible: s.visible })) })),
        };
      });
      const boxes = measurementService.getMeasurements().map(m => {
        const box = annotation?.state.getAnnotation(m.uid);
        return { label: m.label, radiograph: m.SOPInstanceUID, locked: Boolean(box && annotation.locking.isAnnotationLocked(m.uid)),
          ours: Boolean(box?.data.hilumLabel), corners: (box?.data.handles.points ?? []).map(p => [...p]) };
      });
      const waiting = viewports.some(v => v.radiograph && drawn.get(v.viewportId) !== v.radiograph);
      return { busy: waiting || pending.size > 0, viewports, boxes, problems: problems.map(p => ({ ...p })) };
    }

    return { start, stop, status };
  }

  // --- hanging -------------------------------------------------------------------------------------------------------
  const viewport = index => ({
    viewportOptions: { viewportId: index === 0 ? 'default' : `hilum-${index}`, viewportType: 'stack', toolGroupId: 'default',
      allowUnmatchedView: true },
    displaySets: [{ id: 'radiograph', matchedDisplaySetsIndex: index }],
  });
  const stage = (name, columns, viewportsNeeded) => ({
    id: name, name,
    stageActivation: { enabled: { minViewportsMatched: viewportsNeeded }, passive: { minViewportsMatched: viewportsNeeded } },
    viewportStructure: { layoutType: 'grid', properties: { rows: 1, columns } },
    viewports: Array.from({ length: columns }, (_, index) => viewport(index)),
  });
  // Studies without CR or DX do not match and hang as OHIF's default protocol says.
  const protocol = {
    id: 'hilum-radiographs',
    name: 'Radiographs',
    numberOfPriorsReferenced: -1, // the active study alone
    protocolMatchingRules: [
      { id: 'radiograph', weight: 500, required: true, attribute: 'ModalitiesInStudy', constraint: { contains: RADIOGRAPHS } },
    ],
    toolGroupIds: ['default'],
    displaySetSelectors: {
      radiograph: {
        seriesMatchingRules: [
          { weight: 1, required: true, attribute: 'hilumIsRadiograph', constraint: { equals: { value: true } } },
          { weight: 100, attribute: 'isDisplaySetFromUrl', constraint: { equals: { value: true } } },
          { weight: 20, attribute: 'hilumHasResult', constraint: { equals: { value: true } } },
        ],
      },
    },
    defaultViewport: {
      viewportOptions: { viewportType: 'stack', toolGroupId: 'default', allowUnmatchedView: true },
      displaySets: [{ id: 'radiograph', matchedDisplaySetsIndex: -1 }],
    },
    stages: [stage('pair', 2, 2), stage('single', 1, 1)],
  };

  let overlay;
  let subscriptions = [];
  const extension = {
    id: 'hilum',
    version: '1.0.0',
    preRegistration({ servicesManager, commandsManager, extensionManager }) {
      const { hangingProtocolService, displaySetService } = servicesManager.services;
      hangingProtocolService.addCustomAttribute('hilumIsRadiograph', 'Is a radiograph', isRadiograph);
      hangingProtocolService.addCustomAttribute('hilumHasResult', 'Has an AI result', displaySet =>
        isRadiograph(displaySet) && ['SR', 'SEG'].some(kind => newestResult(displaySetService, displaySet, kind)));
      overlay = createOverlay(servicesManager, commandsManager, extensionManager);
    },
    getHangingProtocolModule: () => [{ name: protocol.id, protocol }],
    onModeEnter() { subscriptions = overlay.start(); },
    onModeExit() { overlay.stop(); subscriptions.splice(0).forEach(subscription => subscription.unsubscribe()); },
  };

  // --- the note and the way back -------------------------------------------------------------------------------------
  // A strip of its own below the viewer, so that it hides nothing; on every page, whatever is loaded.
  function addNote() {
    const style = document.createElement('style');
    style.textContent = `
      body { --hilum-strip: 24px; overflow: hidden; }
      #root { position: relative; height: calc(100vh - var(--hilum-strip)); overflow: auto; }
      #root .h-screen { height: calc(100vh - var(--hilum-strip)) !important; }
      #root [style*="100vh"][style*="52px"] { height: calc(100vh - 52px - var(--hilum-strip)) !important; }
      #hilum-note { position: fixed; inset: auto 0 0 0; height: var(--hilum-strip); z-index: 40; display: flex; gap: 1.5em;
        align-items: center; padding: 0 12px; background: #10141c; color: #d9dee8; border-top: 1px solid #2a3242;
        font: 12px/1 Inter, system-ui, sans-serif; white-space: nowrap; overflow: hidden; }
      #hilum-note a { color: #8fc7ff; text-decoration: none; }
      #hilum-note a:hover, #hilum-note a:focus-visible { text-decoration: underline; }
      #hilum-note b { font-weight: 600; color: #ffc400; }
      #hilum-problem { color: #ff9d7a; }
      #hilum-problem[hidden] { display: none; }`;
    const strip = document.createElement('aside');
    strip.id = 'hilum-note';
    const link = Object.assign(document.createElement('a'), { href: '/hilum/', textContent: '\u2190 Worklist' });
    const note = Object.assign(document.createElement('b'), { textContent: NOTE });
    const problem = Object.assign(document.createElement('span'), { id: 'hilum-problem', hidden: true,
      textContent: 'Some AI results could not be drawn; they are listed with the series.' });
    problem.setAttribute('role', 'status');
    strip.append(link, note, problem);
    document.head.append(style);
    document.body.append(strip);
  }
  if (document.body) addNote();
  else document.addEventListener('DOMContentLoaded', addNote, { once: true });

  /** What the viewer shows at this moment, for tests and for support; nothing can be changed through it. */
  Object.defineProperty(window, 'hilum', {
    value: Object.freeze({ note: NOTE, status: () => overlay?.status() ?? null }),
  });

  // --- OHIF ----------------------------------------------------------------------------------------------------------
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
      createLogoComponentFn: React => React.createElement('a',
        { href: '/hilum/', title: 'Back to the worklist', style: { font: '600 16px Inter, sans-serif', color: '#d9dee8' } }, 'Hilum'),
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
})();
