/* Hilum's configuration of OHIF 3.13, served live as /ohif/app-config.js. Nothing of OHIF is rebuilt.
 *
 * What it adds:
 *   - a study with radiographs opens with each radiograph, the current Hilum SEG over it and the boxes and lines of the
 *     current Hilum SR, labelled and locked, without a click;
 *   - whichever of our results is opened by hand, its radiograph is shown with just that result;
 *   - a strip below the viewer: the results of the image in words, a permanent note that they are not verified, a link
 *     back to the worklist.
 * Everything else, and everything of other makers, is OHIF as its authors made it.
 *
 * The rule: whatever fails here, the radiograph stays on the screen. A result that cannot be drawn is named in the
 * console and in window.hilum, and the strip says so.
 */
(() => {
  'use strict';

  const NOTE = 'AI result, not verified \u2013 research software, not a medical device';
  const MANUFACTURER = 'Hilum'; // as dicom_sr writes it
  const RADIOGRAPHS = ['CR', 'DX', 'RG', 'DR']; // others count where a result of ours is about them
  const PATIENCE_SECONDS = 60;
  const COLOUR_ATTEMPTS = 100; // of 0.1 s
  const STACK_HANDLER = '@ohif/extension-default.sopClassHandlerModule.stack';
  const SR_HANDLERS = [
    '@ohif/extension-cornerstone-dicom-sr.sopClassHandlerModule.dicom-sr',
    '@ohif/extension-cornerstone-dicom-sr.sopClassHandlerModule.dicom-sr-3d',
  ];
  const SEG_HANDLER = '@ohif/extension-cornerstone-dicom-seg.sopClassHandlerModule.dicom-seg';
  // A finding is amber and bold; a distance is a thin, pale blue line that does not compete with it.
  const amber = 'rgb(255, 196, 0)';
  const pale = 'rgb(120, 190, 250)';
  const drawing = (colour, width, fontSize) => ({ color: colour, colorSelected: colour, colorHighlighted: colour,
    colorLocked: colour, lineWidth: width, lineDash: '', textBoxColor: colour, textBoxColorLocked: colour,
    textBoxColorSelected: colour, textBoxColorHighlighted: colour, textBoxLinkLineColor: colour,
    textBoxFontSize: fontSize, textBoxBackground: 'rgba(0, 0, 0, 0.6)' });
  const STYLES = { RectangleROI: drawing(amber, '2', '14px'),
    Length: { ...drawing(pale, '1.5', '12px'), textBoxLinkLineWidth: '0' } };
  // Where along the cardiac and the thoracic diameter its label begins, below the line: on the heart, not on the lungs.
  const LABEL_STARTS = [0, 0.35];
  const LABEL_PIXELS = 18; // height of a label on the screen
  const OVERLAY_STYLE = { fillAlpha: 0.08, fillAlphaInactive: 0.08, outlineWidth: 2, outlineWidthInactive: 2 };

  const list = value => (value === undefined || value === null ? [] : Array.isArray(value) ? value : [value]);

  // --- requests ------------------------------------------------------------------------------------------------------
  // Orthanc's DICOMweb plugin takes "includefield=a%2Cb" for one unknown field and answers without any description.
  const openRequest = XMLHttpRequest.prototype.open;
  XMLHttpRequest.prototype.open = function open(method, url, ...rest) {
    const repeated = String(url).replace(/includefield=([^&]*)/gi, (_, fields) =>
      fields.split(/%2C|,/i).map(field => `includefield=${field}`).join('&'));
    return openRequest.call(this, method, repeated, ...rest);
  };

  // --- structured reports --------------------------------------------------------------------------------------------
  const MEASUREMENT_REPORT = '126000'; // DCM; the codes of dicom_sr/codes.py
  const IMAGING_MEASUREMENTS = '126010';
  const MEASUREMENT_GROUP = '125007';
  const TRACKING_IDENTIFIERS = ['112039', '112040'];
  const STATES = { 52101004: 'present', 272519000: 'absent', 373068000: 'undetermined', NOTEVALUATED: 'not evaluated',
    FAILED: 'failed' };

  const children = item => list(item?.ContentSequence);
  const conceptOf = item => list(item?.ConceptNameCodeSequence)[0] ?? {};
  const codeOf = item => list(item?.ConceptCodeSequence)[0] ?? {};
  const named = (items, value) => items.filter(item => conceptOf(item).CodeValue === value);
  const descendants = item => children(item).flatMap(child => [child, ...descendants(child)]);
  const capitalised = key => key.charAt(0).toUpperCase() + key.slice(1).replaceAll('_', ' ');
  const numberOf = item => Number(list(item?.MeasuredValueSequence)[0]?.NumericValue);

  /** SOP Instance UIDs that a reference macro (PS3.3 C.17.2.1, C.7.6.16.2.1) names. */
  const referenced = items => list(items)
    .flatMap(item => list(item.ReferencedSeriesSequence))
    .flatMap(series => [...list(series.ReferencedSOPSequence), ...list(series.ReferencedInstanceSequence)])
    .map(reference => reference.ReferencedSOPInstanceUID);

  /** Instances that the coordinates of a report lie on; null stands for coordinates in space (SCOORD3D). */
  const placesOf = report => descendants(report)
    .filter(item => item.ValueType === 'SCOORD' || item.ValueType === 'SCOORD3D')
    .flatMap(item => (item.ValueType === 'SCOORD3D' ? [null]
      : children(item).flatMap(child => list(child.ReferencedSOPSequence)).map(r => r.ReferencedSOPInstanceUID)));

  /** Whether OHIF can read every measurement group: it stops at one without both tracking identifiers. */
  const isTracked = report => named(named(children(report), IMAGING_MEASUREMENTS).flatMap(children), MEASUREMENT_GROUP)
    .every(group => TRACKING_IDENTIFIERS.every(identifier => named(children(group), identifier).length > 0));

  /**
   * What a measurement report of ours says, for people. A state (CODE) has its probability, side and reason below it or,
   * in a measurement group, beside it.
   */
  function read(report) {
    const items = descendants(report);
    const text = (scope, value) => named(scope, value).map(item => item.TextValue ?? codeOf(item).CodeMeaning)[0];
    const about = (item, siblings) => (children(item).length ? children(item) : siblings);
    const findings = [report, ...items].flatMap(parent => children(parent)
      .filter(item => item.ValueType === 'CODE' && STATES[codeOf(item).CodeValue])
      .filter(item => conceptOf(item).CodeValue !== 'MODELRUN')
      .map(item => {
        const scope = about(item, children(parent));
        const site = named(scope, '363698007').flatMap(children);
        const certainty = numberOf(named(scope, '111012')[0]);
        const key = text(scope, TRACKING_IDENTIFIERS[0]);
        return { name: key ? capitalised(key) : conceptOf(item).CodeMeaning, state: STATES[codeOf(item).CodeValue],
          percent: Number.isFinite(certainty) ? Math.round(certainty) : null,
          side: text(named(scope, '272741003').concat(named(site, '272741003')), '272741003')?.toLowerCase() ?? '',
          reason: text(scope, 'REASON') ?? '' };
      }));
    const measurements = named(items, 'CTR').map(item => `${conceptOf(item).CodeMeaning} ${numberOf(item).toFixed(2)}`);
    const lengths = named(items, MEASUREMENT_GROUP)
      .filter(group => named(children(group), '81827009').length)
      .map(group => text(children(group), '121106')).filter(Boolean);
    const priority = named(items, '260870009')[0];
    const runs = named(items, 'MODELRUN').map(item =>
      [text(children(item), '111001'), text(children(item), '111003')].filter(Boolean).join(' ')
        + (codeOf(item).CodeValue === 'FAILED' ? ' (failed)' : ''));
    const summary = named(items, '111017')[0];
    const urgency = [codeOf(priority).CodeMeaning, text(children(priority), 'REASON')].filter(Boolean).join(': ');
    return { findings, measurements: [...measurements, ...lengths], runs,
      failed: codeOf(summary).CodeValue === '111245',
      summary: codeOf(summary).CodeMeaning ?? '',
      priority: urgency,
      cautions: [...new Set(named(items, 'CAUTION').map(item => codeOf(item).CodeMeaning))] };
  }

  // --- which result belongs to which image ---------------------------------------------------------------------------
  const imageUid = displaySet => displaySet.images[0].SOPInstanceUID;
  const isOurs = displaySet => displaySet?.instance?.Manufacturer === MANUFACTURER;
  const isReport = displaySet => displaySet?.Modality === 'SR'
    && conceptOf(displaySet.instance).CodeValue === MEASUREMENT_REPORT;
  const evidenceOf = report => referenced(report.instance.CurrentRequestedProcedureEvidenceSequence);
  const sourcesOf = ({ Modality, instance }) =>
    (Modality === 'SEG' ? referenced(instance) : referenced(instance.CurrentRequestedProcedureEvidenceSequence));
  const writtenAt = ({ instance }) =>
    `${instance.ContentDate || instance.SeriesDate || ''} ${instance.ContentTime || instance.SeriesTime || ''}`;
  const newest = results => [...results]
    .sort((a, b) => writtenAt(b).localeCompare(writtenAt(a)) || b.SOPInstanceUID.localeCompare(a.SOPInstanceUID))[0];

  /** Our results in the studies that are loaded: what each is about, and which of them is current. */
  function createResults(displaySetService) {
    const ofOurs = kind => displaySetService.getActiveDisplaySets().filter(d => d.Modality === kind && isOurs(d));
    const reports = () => ofOurs('SR').filter(isReport);
    const about = (results, radiograph) => results.filter(d => sourcesOf(d).includes(imageUid(radiograph)));
    const isRadiograph = d => Boolean(d?.images?.length) && !d.isOverlayDisplaySet
      && (RADIOGRAPHS.includes(d.Modality) || about(reports(), d).length > 0);

    /** A report is superseded when another one of ours names it as its predecessor; dates of versions may be equal. */
    const isSuperseded = report => reports().some(other =>
      referenced(other.instance.PredecessorDocumentsSequence).includes(report.SOPInstanceUID));

    function current(radiograph) {
      const candidates = about(reports(), radiograph);
      const open = candidates.filter(report => !isSuperseded(report));
      return newest(open.length ? open : candidates);
    }

    /** The SEG that a report was written with; where there is no report at all, the newest one of the image. */
    function segmentation(radiograph, report) {
      const segmentations = about(ofOurs('SEG'), radiograph);
      if (!report) return newest(segmentations);
      return segmentations.find(seg => evidenceOf(report).includes(seg.SOPInstanceUID));
    }

    const radiographOf = result => {
      const sources = sourcesOf(result);
      return displaySetService.getActiveDisplaySets().find(d => isRadiograph(d) && sources.includes(imageUid(d)));
    };
    const reportWith = seg => newest(reports().filter(report => evidenceOf(report).includes(seg.SOPInstanceUID)));
    return { current, segmentation, isSuperseded, isRadiograph, radiographOf, reportWith, about, ofOurs };
  }

  // --- bit-packed frames -----------------------------------------------------------------------------------------------
  const PROVIDER_PRIORITY = 20000; // before OHIF's own
  const PIXEL_DATA = [0xe0, 0x7f, 0x10, 0x00];

  /** The frames of a SEG for Cornerstone, cut here from its file: each one begins with a byte of its own. */
  function createFrames() {
    const held = new Map(); // imageId -> packed bits

    /** Pixel Data, which ends a SEG: tag, value representation, two bytes, length, value (PS3.5 7.1.2). */
    function pixelData(file, length) {
      const bytes = new Uint8Array(file);
      const start = bytes.length - length - 12;
      const isThere = start >= 0 && PIXEL_DATA.every((byte, n) => bytes[start + n] === byte)
        && new DataView(file, start + 8, 4).getUint32(0, true) === length;
      if (!isThere) throw new Error('Pixel Data is not where it is expected');
      return bytes.subarray(start + 12);
    }

    function frame(packed, bits, index) {
      const first = Math.floor(index * bits / 8);
      const shift = index * bits % 8;
      return Uint8Array.from({ length: Math.ceil(bits / 8) },
        (_, n) => (packed[first + n] >> shift) | ((packed[first + n + 1] ?? 0) << (8 - shift)));
    }

    return {
      hold(imageIds, file, bits) {
        const length = 2 * Math.ceil(imageIds.length * bits / 16);
        const packed = pixelData(file, length);
        imageIds.forEach((imageId, index) => held.set(imageId, frame(packed, bits, index)));
      },
      release: imageIds => imageIds.forEach(imageId => held.delete(imageId)),
      provide: (type, imageId, options) => (type === 'compressedFrameData' && held.has(imageId)
        ? { transferSyntaxUid: '1.2.840.10008.1.2.1', frameOfInterest: options?.frameIndex ?? 0,
          frameNumber: (options?.frameIndex ?? 0) + 1, pixelData: [held.get(imageId)] } : undefined),
    };
  }

  // --- drawing -------------------------------------------------------------------------------------------------------
  function createOverlay(servicesManager, commandsManager, extensionManager, strip) {
    const { displaySetService, cornerstoneViewportService, viewportGridService, segmentationService, measurementService,
      toolGroupService, userAuthenticationService, customizationService, hangingProtocolService,
      uiNotificationService } = servicesManager.services;
    const results = createResults(displaySetService);
    const { isRadiograph } = results;
    const problems = [];
    const pending = new Map(); // one piece of work per viewport and per report, however many events arrive
    const drawn = new Map(); // viewport -> the radiograph and result that have been dealt with there
    const asked = new Map(); // image -> the result that a person opened instead of the current one
    const frames = createFrames();
    const annotations = new Map(); // report -> UIDs of the boxes and lines that were drawn for it
    let entered = false;

    const byUid = uid => (typeof uid === 'string' ? displaySetService.getDisplaySetByUID(uid) : undefined);
    const viewportIds = () => [...viewportGridService.getState().viewports.keys()];
    const shownIn = viewportId => (viewportGridService.getDisplaySetsUIDsForViewport(viewportId) ?? []).map(byUid);
    const radiographIn = viewportId => shownIn(viewportId).find(isRadiograph);

    /** The report and the SEG to be shown with a radiograph; either may be missing. */
    function resultFor(radiograph) {
      const wanted = asked.get(imageUid(radiograph));
      if (wanted?.Modality === 'SEG') return { report: undefined, seg: wanted };
      const report = wanted ?? results.current(radiograph);
      return { report, seg: results.segmentation(radiograph, report) };
    }

    const stateOf = radiograph => {
      const { report, seg } = resultFor(radiograph);
      return [imageUid(radiograph), report?.SOPInstanceUID, seg?.SOPInstanceUID].join(' ');
    };

    function report(what, displaySet, error) {
      console.warn(`Hilum: ${what} cannot be shown`, error);
      problems.push({ what, sopInstanceUid: displaySet.SOPInstanceUID, message: String(error?.message ?? error) });
      strip.complain();
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
      const { triggerSegmentationEvents: events } = window.cornerstoneTools.segmentation;
      const hasColours = () => {
        const shapes = (cornerstoneViewportService.getCornerstoneViewport(viewportId)?.getActors() ?? [])
          .filter(shape => shape.representationUID?.startsWith(segmentationId));
        return shapes.length > 0 && shapes.every(shape => shape.actor.getProperty().getRGBTransferFunction?.(0));
      };
      const isWanted = () => segmentationService.getSegmentationRepresentations(viewportId, { segmentationId }).length > 0;
      for (let attempt = 0; attempt < COLOUR_ATTEMPTS && isWanted() && !hasColours(); attempt += 1) {
        events.triggerSegmentationRepresentationModified(viewportId, segmentationId, 'Labelmap');
        await new Promise(resolve => { setTimeout(resolve, 100); });
      }
      if (hasColours() || !isWanted()) return;
      segmentationService.removeRepresentationsFromViewport(viewportId, { segmentationId });
      throw new Error('the segmentation got no colours');
    }

    /** Takes our other SEGs off a viewport: those of the results that are not shown. */
    function clearSegmentations(viewportId, seg) {
      for (const other of results.ofOurs('SEG').filter(d => d !== seg)) {
        const segmentationId = other.displaySetInstanceUID;
        if (segmentationService.getSegmentationRepresentations(viewportId, { segmentationId }).length) {
          segmentationService.removeRepresentationsFromViewport(viewportId, { segmentationId });
        }
      }
    }

    async function drawSegmentation(viewportId, radiograph, seg) {
      const segmentationId = seg.displaySetInstanceUID;
      // Where the SEG's header arrived before the image's, OHIF took any image of the referenced series.
      seg.referencedDisplaySetInstanceUID = radiograph.displaySetInstanceUID;
      if (!segmentationService.getSegmentation(segmentationId)) {
        await once(seg.SOPInstanceUID, () =>
          patiently(seg.load({ headers: userAuthenticationService.getAuthorizationHeader() })));
      }
      // The viewport may have been given another image or result while the SEG was on its way.
      if (radiographIn(viewportId) !== radiograph || resultFor(radiograph).seg !== seg) return;
      if (segmentationService.getSegmentationRepresentations(viewportId, { segmentationId }).length) return;
      await segmentationService.addSegmentationRepresentation(viewportId, { segmentationId, type: 'Labelmap' });
      segmentationService.setStyle({ viewportId, segmentationId, type: 'Labelmap' }, OVERLAY_STYLE);
      await colour(viewportId, segmentationId);
      for (const index of Object.keys(segmentationService.getSegmentation(segmentationId)?.segments ?? {})) {
        segmentationService.setSegmentLocked(segmentationId, Number(index), true);
      }
    }

    /** Takes the boxes of our other reports off a radiograph; they are drawn again when their report is opened. */
    function clearBoxes(radiograph, shown) {
      for (const other of results.about([...annotations.keys()], radiograph).filter(d => d !== shown)) {
        for (const uid of annotations.get(other)) measurementService.remove(uid);
        annotations.delete(other);
        other.isHydrated = false;
      }
    }

    async function drawBoxes(viewportId, radiograph, sr) {
      if (annotations.has(sr)) return;
      if (!sr.isLoaded) await patiently(sr.load());
      if (resultFor(radiograph).report !== sr || annotations.has(sr)) return;
      annotations.set(sr, []);
      if (!sr.isRehydratable) return;
      const before = new Set(measurementService.getMeasurements().map(m => m.uid));
      await commandsManager.runCommand('hydrateStructuredReport', { displaySetInstanceUID: sr.displaySetInstanceUID });
      const { annotation } = window.cornerstoneTools;
      for (const { uid } of measurementService.getMeasurements().filter(m => !before.has(m.uid))) {
        annotations.get(sr).push(uid);
        const shape = annotation.state.getAnnotation(uid);
        if (!shape) continue;
        shape.data.hilumLabel = shape.data.label || 'AI finding';
        shape.data.handles.points = straightened(shape.metadata.referencedImageId, shape.data.handles.points);
        annotation.locking.setAnnotationLocked(uid, true);
        annotation.config.style.setAnnotationStyles(uid, STYLES[shape.metadata.toolName] ?? STYLES.RectangleROI);
      }
      placeLabels(viewportId, annotations.get(sr).map(uid => annotation.state.getAnnotation(uid))
        .filter(shape => shape?.metadata.toolName === 'Length'));
    }

    /**
     * Cornerstone takes the spacing of rows for that of columns and the other way round when it goes from pixels to the
     * patient, and back: where pixels are not square, a box would stand beside its finding.
     */
    function straightened(imageId, points) {
      const { metaData, utilities } = window.cornerstone;
      const plane = metaData.get('imagePlaneModule', imageId);
      const { imagePositionPatient: origin, rowCosines, columnCosines } = plane;
      const [across, down] = [plane.columnPixelSpacing || 1, plane.rowPixelSpacing || 1];
      if (across === down) return points;
      return points.map(point => {
        const [x, y] = utilities.worldToImageCoords(imageId, point);
        return [0, 1, 2].map(i => origin[i] + rowCosines[i] * across * (x - 0.5) + columnCosines[i] * down * (y - 0.5));
      });
    }

    /** Left to itself, Cornerstone puts the labels of the diameters on the lungs, and on each other. */
    function placeLabels(viewportId, distances) {
      const view = cornerstoneViewportService.getCornerstoneViewport(viewportId);
      const pixel = view ? Math.abs(view.canvasToWorld([0, 1])[1] - view.canvasToWorld([0, 0])[1]) : 1;
      let above = -Infinity;
      distances.forEach(({ data }, index) => {
        const [from, to] = data.handles.points;
        const place = from.map((v, i) => v + (LABEL_STARTS[index] ?? 0) * (to[i] - v));
        if (Math.abs(place[1] - above) < LABEL_PIXELS * pixel) place[1] = above + LABEL_PIXELS * pixel;
        above = place[1];
        data.handles.textBox = { ...data.handles.textBox, hasMoved: true, worldPosition: place };
      });
    }

    /** Ours carry their own words; the area, mean and length that OHIF works out would be noise, or differ from the SR. */
    function labelShapes() {
      for (const id of toolGroupService.getToolGroupIds()) {
        for (const name of Object.keys(STYLES)) {
          const tool = toolGroupService.getToolGroup(id)?.getToolInstance?.(name);
          if (!tool || tool.configuration.labelsHilum) continue;
          const usual = tool.configuration.getTextLines;
          const getTextLines = (data, target) => (data.hilumLabel ? [data.hilumLabel] : usual(data, target));
          Object.assign(tool.configuration, { getTextLines, labelsHilum: true });
        }
      }
    }

    /** Starts a piece of work unless it runs already. */
    function once(key, work) {
      if (!pending.has(key)) pending.set(key, work().finally(() => pending.delete(key)));
      return pending.get(key);
    }

    const told = (what, displaySet, work) => work.catch(error => report(what, displaySet, error));

    async function draw(viewportId) {
      strip.update();
      const radiograph = radiographIn(viewportId);
      if (!radiograph) return;
      labelShapes();
      const state = stateOf(radiograph);
      const { report: sr, seg } = resultFor(radiograph);
      clearSegmentations(viewportId, seg);
      clearBoxes(radiograph, sr);
      await Promise.all([
        seg && once(`${viewportId} ${seg.SOPInstanceUID}`, () =>
          told('SEG', seg, drawSegmentation(viewportId, radiograph, seg))),
        sr && once(sr.SOPInstanceUID, () => told('SR', sr, drawBoxes(viewportId, radiograph, sr))),
      ]);
      cornerstoneViewportService.getCornerstoneViewport(viewportId)?.render();
      drawn.set(viewportId, state);
      // The list marks the reports whose boxes are drawn; nothing else tells it that they have changed.
      displaySetService._broadcastEvent(displaySetService.EVENTS.DISPLAY_SETS_CHANGED, displaySetService.activeDisplaySets);
    }

    const everywhere = () => viewportIds().forEach(draw);

    // --- what a person opens ---
    /** Why a display set would leave a viewport empty, or nothing. */
    function refusal(displaySet) {
      if (displaySet?.unsupported) return 'This viewer cannot show objects of this kind.';
      if (displaySet?.Modality !== 'SEG') return '';
      const isPlaced = (isOurs(displaySet) && results.radiographOf(displaySet))
        || byUid(displaySet.referencedDisplaySetInstanceUID);
      return isPlaced ? '' : 'The image that this segmentation belongs to is not in the study.';
    }

    function refuse(displaySet, message) {
      uiNotificationService.show({ title: displaySet.SeriesDescription || displaySet.Modality, message, type: 'info',
        duration: 5000 });
    }

    /**
     * Shows a measurement report that OHIF cannot place on an image of the study as text: its own viewport would stay
     * empty.
     */
    function asTextUnlessPlaced(displaySet) {
      const pictures = displaySetService.getActiveDisplaySets().flatMap(d => list(d.images));
      const images = new Set(pictures.map(picture => picture.SOPInstanceUID));
      const { instance } = displaySet;
      displaySet.isImagingMeasurementReport = isTracked(instance)
        && placesOf(instance).some(place => place === null || images.has(place));
    }

    /** What is to be shown for a display set that was clicked or dropped: for our results, their radiograph. */
    function target(uid) {
      const displaySet = byUid(uid);
      if (isOurs(displaySet) && (isReport(displaySet) || displaySet.Modality === 'SEG')) {
        const radiograph = results.radiographOf(displaySet);
        if (radiograph) {
          const result = displaySet.Modality === 'SEG' ? results.reportWith(displaySet) ?? displaySet : displaySet;
          asked.set(imageUid(radiograph), result);
          return radiograph.displaySetInstanceUID;
        }
      } else if (isRadiograph(displaySet)) {
        asked.delete(imageUid(displaySet));
      }
      if (isReport(displaySet)) asTextUnlessPlaced(displaySet);
      return uid;
    }

    function redirected(update) {
      const uids = list(update.displaySetInstanceUIDs);
      const refused = uids.map(byUid).find(refusal);
      if (refused) {
        refuse(refused, refusal(refused));
        return [];
      }
      const targets = [];
      const options = [];
      uids.forEach((uid, index) => {
        const shown = target(uid);
        if (targets.includes(shown)) return;
        targets.push(shown);
        options.push(list(update.displaySetOptions)[index] ?? {});
      });
      if (targets.every((uid, index) => uid === uids[index]) && targets.length === uids.length) return [update];
      return [{ ...update, displaySetInstanceUIDs: targets,
        displaySetOptions: list(update.displaySetOptions).length ? options : update.displaySetOptions }];
    }

    /** Every click, drop and command that changes what a viewport shows passes here. */
    function watchOpening() {
      const change = viewportGridService.setDisplaySetsForViewports.bind(viewportGridService);
      viewportGridService.setDisplaySetsForViewports = async updates => {
        const allowed = updates.flatMap(redirected);
        if (allowed.length) await change(allowed);
        setTimeout(everywhere); // the same image may be shown with another result: then no event tells us
      };
      const require = hangingProtocolService.getViewportsRequireUpdate.bind(hangingProtocolService);
      hangingProtocolService.getViewportsRequireUpdate = (viewportId, uid, ...rest) => {
        const displaySet = byUid(uid);
        if (!displaySet?.unsupported) return require(viewportId, uid, ...rest);
        refuse(displaySet, refusal(displaySet)); // OHIF throws, and calls it an error
        return [];
      };
    }

    function showCurrent() {
      asked.clear();
      everywhere();
    }

    const showsSuperseded = () => entered && viewportIds().map(radiographIn).filter(Boolean)
      .map(radiograph => resultFor(radiograph).report).some(sr => sr && results.isSuperseded(sr));

    // --- how OHIF makes display sets ---
    function patchHandler(id, change) {
      const handler = extensionManager.getModuleEntry(id);
      if (!handler || handler.knowsHilum) return;
      const usual = handler.getDisplaySetsFromSeries;
      handler.getDisplaySetsFromSeries = instances => change(usual, instances);
      handler.knowsHilum = true;
    }

    /** OHIF shows only the last SR or SEG of a series; ours share a series when a study has several radiographs. */
    const onePerInstance = (usual, instances) => instances.flatMap(instance =>
      list(usual([instance])).map(displaySet => Object.assign(displaySet, { addInstances: undefined })));

    /**
     * OHIF looks for the images of a report among the label maps of loaded SEGs too, and stops at them; and its viewport
     * for a report goes to the first measurement, wherever that is: put those with a place first.
     */
    function withCarefulLoading(displaySet) {
      const usual = displaySet.load;
      return Object.assign(displaySet, {
        load: async (...rest) => {
          const labelMaps = displaySetService.getActiveDisplaySets().filter(d => d.isOverlayDisplaySet && d.images)
            .map(overlay => [overlay, overlay.images]);
          for (const [overlay] of labelMaps) overlay.images = undefined;
          try {
            await usual(...rest);
          } finally {
            for (const [overlay, images] of labelMaps) overlay.images = images;
          }
          displaySet.measurements?.sort((a, b) => Boolean(b.displaySetInstanceUID) - Boolean(a.displaySetInstanceUID));
        },
      });
    }

    /** OHIF's reader refuses a padded byte at the end of bit-packed frames, and Orthanc gives no such frame alone. */
    function withOddFrames(displaySet) {
      const { instance } = displaySet;
      const usual = displaySet.load;
      const { BitsAllocated, NumberOfFrames, Rows, Columns } = instance;
      const isOdd = Number(BitsAllocated) === 1 && NumberOfFrames > 1 && Math.ceil(Rows * Columns * NumberOfFrames / 8) % 2;
      if (!isOdd) return displaySet;
      return Object.assign(displaySet, {
        load: async (...rest) => {
          const [dataSource] = extensionManager.getActiveDataSource();
          const file = await dataSource.retrieve.getWadoDicomWebClient().retrieveInstance({
            studyInstanceUID: instance.StudyInstanceUID, seriesInstanceUID: instance.SeriesInstanceUID,
            sopInstanceUID: instance.SOPInstanceUID });
          const imageIds = Array.from({ length: Number(NumberOfFrames) },
            (_, n) => dataSource.getImageIdsForInstance({ instance, frame: n + 1 }));
          frames.hold(imageIds, file, Rows * Columns);
          try {
            await usual(...rest);
          } finally {
            frames.release(imageIds);
          }
        },
      });
    }

    /**
     * With a spacing that is no pair of distances Cornerstone draws a picture without any extent: some devices write
     * zeros, and Orthanc's answer loses the pair where the character set has no backslash (ISO_IR 13).
     */
    function dropBadSpacing(instance) {
      for (const keyword of ['PixelSpacing', 'ImagerPixelSpacing'].filter(k => k in instance)) {
        const distances = list(instance[keyword]).map(Number);
        if (distances.length !== 2 || !distances.every(distance => distance > 0)) delete instance[keyword];
      }
    }

    /** Cornerstone's thumbnails on the GPU forget that MONOCHROME1 is dark where its values are high; the CPU does not. */
    function uprightThumbnail(displaySet) {
      const image = displaySet.images?.[0] ?? displaySet.instance;
      if (image?.PhotometricInterpretation !== 'MONOCHROME1') return displaySet;
      return Object.assign(displaySet, {
        getThumbnailSrc: async () => {
          const canvas = document.createElement('canvas');
          await window.cornerstone.utilities.loadImageToCanvas(
            { canvas, imageId: image.imageId, thumbnail: true, useCPURendering: true });
          return canvas.toDataURL();
        },
      });
    }

    /** A measurement without coordinates has no image to be added to; OHIF would stop reading the report at it. */
    const withCoordinates = ({ measurement }) =>
      (measurement.coords?.length ? measurement : { ...measurement, coords: [{}] });

    function start() {
      patchHandler(SEG_HANDLER, (usual, instances) => onePerInstance(usual, instances).map(withOddFrames));
      for (const id of SR_HANDLERS) {
        patchHandler(id, (usual, instances) => onePerInstance(usual, instances).map(withCarefulLoading));
      }
      patchHandler(STACK_HANDLER, (usual, instances) => {
        instances.forEach(dropBadSpacing);
        return list(usual(instances)).map(uprightThumbnail);
      });
      window.cornerstone.metaData.removeProvider(frames.provide);
      window.cornerstone.metaData.addProvider(frames.provide, PROVIDER_PRIORITY);
      for (const state of [drawn, asked, annotations]) state.clear();
      problems.length = 0;
      strip.reset();
      entered = true;
      customizationService.setCustomizations({
        'panelMeasurement.disableEditing': { $set: true },
        onBeforeSRAddMeasurement: { $set: withCoordinates },
      });
      const { VIEWPORT_DATA_CHANGED } = cornerstoneViewportService.EVENTS;
      const { ACTIVE_VIEWPORT_ID_CHANGED, GRID_STATE_CHANGED } = viewportGridService.EVENTS;
      return [
        cornerstoneViewportService.subscribe(VIEWPORT_DATA_CHANGED, ({ viewportId }) => draw(viewportId)),
        displaySetService.subscribe(displaySetService.EVENTS.DISPLAY_SETS_ADDED, everywhere),
        viewportGridService.subscribe(ACTIVE_VIEWPORT_ID_CHANGED, () => strip.update()),
        viewportGridService.subscribe(GRID_STATE_CHANGED, () => strip.update()),
      ];
    }

    function stop() {
      entered = false;
      strip.reset();
    }

    /** What the strip tells about the image of the active viewport; null where there is none. */
    function inWords() {
      const radiograph = entered && radiographIn(viewportGridService.getActiveViewportId());
      if (!radiograph) return null;
      const { report: sr } = resultFor(radiograph);
      return { image: viewportIds().length > 1 ? radiograph.SeriesDescription || radiograph.Modality : '',
        result: sr ? read(sr.instance) : null, label: sr?.SeriesDescription ?? '' };
    }

    function status() {
      if (!entered) return null;
      const { annotation } = window.cornerstoneTools ?? {};
      const viewports = viewportIds().map(viewportId => {
        const radiograph = radiographIn(viewportId);
        return {
          viewportId,
          radiograph: radiograph ? imageUid(radiograph) : null,
          report: radiograph ? resultFor(radiograph).report?.SOPInstanceUID ?? null : null,
          segmentations: segmentationService.getSegmentationRepresentations(viewportId).map(r => ({
            label: r.label,
            segments: Object.values(r.segments).map(s => ({
              index: s.segmentIndex,
              label: segmentationService.getSegmentation(r.segmentationId)?.segments[s.segmentIndex]?.label,
              color: [...s.color], visible: s.visible })) })),
        };
      });
      const boxes = measurementService.getMeasurements().map(m => {
        const box = annotation?.state.getAnnotation(m.uid);
        return { label: m.label, tool: box?.metadata.toolName, radiograph: m.SOPInstanceUID,
          locked: Boolean(box && annotation.locking.isAnnotationLocked(m.uid)),
          ours: Boolean(box?.data.hilumLabel), corners: (box?.data.handles.points ?? []).map(p => [...p]) };
      });
      const waiting = viewportIds().some(id => radiographIn(id) && drawn.get(id) !== stateOf(radiographIn(id)));
      return { busy: waiting || pending.size > 0, viewports, boxes, problems: problems.map(p => ({ ...p })) };
    }

    watchOpening();
    const hasResult = radiograph => Boolean(results.current(radiograph) ?? results.segmentation(radiograph));
    return { start, stop, status, inWords, showCurrent, showsSuperseded, isRadiograph, hasResult };
  }

  // --- hanging -------------------------------------------------------------------------------------------------------
  const viewport = index => ({
    viewportOptions: { viewportId: index === 0 ? 'default' : `hilum-${index}`, viewportType: 'stack',
      toolGroupId: 'default', allowUnmatchedView: true },
    displaySets: [{ id: 'radiograph', matchedDisplaySetsIndex: index }],
  });
  const stage = (name, columns, viewportsNeeded) => ({
    id: name, name,
    stageActivation: { enabled: { minViewportsMatched: viewportsNeeded },
      passive: { minViewportsMatched: viewportsNeeded } },
    viewportStructure: { layoutType: 'grid', properties: { rows: 1, columns } },
    viewports: Array.from({ length: columns }, (_, index) => viewport(index)),
  });
  // Studies without a radiograph do not match and hang as OHIF's default protocol says.
  const protocol = {
    id: 'hilum-radiographs',
    name: 'Radiographs',
    numberOfPriorsReferenced: -1, // the active study alone
    protocolMatchingRules: [
      { id: 'radiograph', weight: 500, required: true, attribute: 'hilumHasRadiograph',
        constraint: { equals: { value: true } } },
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

  // --- the strip: results in words, the note, the way back -------------------------------------------------------------
  const element = (tag, properties = {}, ...content) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...content);
    return made;
  };
  const inWords = ({ name, percent, side, reason }) =>
    [name, percent === null ? '' : `${percent} %`, side, reason && `(${reason})`].filter(Boolean).join(' ');

  /** The result in one line: what is present, and how many findings are in each other state. */
  function oneLine(result) {
    if (result.failed) return 'analysis failed';
    const of = state => result.findings.filter(f => f.state === state);
    const present = of('present').sort((a, b) => b.percent - a.percent).map(inWords);
    const others = ['undetermined', 'absent', 'not evaluated', 'failed']
      .filter(state => of(state).length).map(state => `${of(state).length} ${state}`);
    return [present.length ? present.join(', ') : 'no finding present', ...others].join(' \u00b7 ');
  }


  /**
   * A strip of its own below the viewer, so that it hides nothing; the list of results opens in the strip and the viewer
   * becomes smaller by as much.
   */
  const BAR_PIXELS = 24;
  const MOST_PIXELS = 180; // of the list, which scrolls beyond
  function createStrip() {
    let overlay = null;
    let shown = '';
    const style = element('style', { textContent: `
      body { --hilum-strip: ${BAR_PIXELS}px; overflow: hidden; }
      #root { position: relative; height: calc(100vh - var(--hilum-strip)); overflow: auto; }
      #root .h-screen { height: calc(100vh - var(--hilum-strip)) !important; }
      #root [style*="100vh"][style*="52px"] { height: calc(100vh - 52px - var(--hilum-strip)) !important; }
      #hilum-note { position: fixed; inset: auto 0 0 0; height: var(--hilum-strip); z-index: 40; background: #10141c;
        color: #d9dee8; border-top: 1px solid #2a3242; font: 12px/1.5 Inter, system-ui, sans-serif; overflow: hidden;
        display: flex; flex-direction: column-reverse; }
      #hilum-bar { flex: none; height: 23px; display: flex; gap: 1.5em; align-items: center; padding: 0 12px;
        white-space: nowrap; overflow: hidden; }
      #hilum-bar a { color: #8fc7ff; text-decoration: none; }
      #hilum-bar a:hover, #hilum-bar a:focus-visible { text-decoration: underline; }
      #hilum-bar b { font-weight: 600; color: #ffc400; }
      #hilum-bar > * { flex: none; }
      #hilum-note button { all: unset; cursor: pointer; color: #eef2f8; }
      #hilum-note #hilum-toggle { flex: 0 1 auto; overflow: hidden; text-overflow: ellipsis; padding: 1px 4px; }
      #hilum-toggle::before { content: '\\25b4\\a0'; }
      #hilum-toggle[aria-expanded="true"]::before { content: '\\25be\\a0'; }
      #hilum-note button:hover { text-decoration: underline; }
      #hilum-note button:focus-visible { outline: 2px solid #8fc7ff; outline-offset: -1px; border-radius: 3px; }
      #hilum-note #hilum-superseded { color: #ff9d7a; text-decoration: underline; }
      #hilum-problem { color: #ff9d7a; }
      #hilum-results { flex: 1; overflow: auto; padding: 8px 12px; display: grid; gap: 4px 24px; align-content: start;
        grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); border-bottom: 1px solid #2a3242; }
      #hilum-results:focus-visible { outline: 2px solid #8fc7ff; outline-offset: -2px; }
      #hilum-results h2 { margin: 0; font-weight: 600; color: #93a1b8; }
      #hilum-results ul { list-style: none; margin: 0; padding: 0; }
      #hilum-results .present li { color: #ffc400; font-weight: 600; }
      #hilum-note [hidden] { display: none; }` });
    const link = element('a', { href: '/hilum/', textContent: '\u2190 Worklist' });
    const note = element('b', { textContent: NOTE });
    const superseded = element('button', { id: 'hilum-superseded', type: 'button', hidden: true,
      textContent: 'Superseded result \u2013 show the newest' });
    const button = element('button', { id: 'hilum-toggle', type: 'button', hidden: true });
    const none = element('span', { id: 'hilum-none', textContent: 'No AI result for this image', hidden: true });
    const problem = element('span', { id: 'hilum-problem', hidden: true,
      textContent: 'Some AI results could not be drawn; they are listed with the series.' });
    problem.setAttribute('role', 'status');
    const panel = element('div', { id: 'hilum-results', hidden: true, tabIndex: 0 });
    panel.setAttribute('role', 'region');
    panel.setAttribute('aria-label', 'AI results of the image');
    button.setAttribute('aria-controls', panel.id);
    const bar = element('div', { id: 'hilum-bar' }, link, note, superseded, button, none, problem);
    const strip = element('aside', { id: 'hilum-note' }, bar, panel);

    function open(isOpen) {
      panel.hidden = !isOpen;
      button.setAttribute('aria-expanded', String(isOpen));
      document.body.style.removeProperty('--hilum-strip');
      if (!isOpen) return;
      document.body.style.setProperty('--hilum-strip', `${BAR_PIXELS + Math.min(panel.scrollHeight + 1, MOST_PIXELS)}px`);
    }

    const section = (title, lines, kind = '') => (lines.length
      ? [element('section', { className: kind }, element('h2', { textContent: title }),
        element('ul', {}, ...lines.map(line => element('li', { textContent: line }))))] : []);

    function sections({ result, label }) {
      const of = state => result.findings.filter(f => f.state === state).map(inWords);
      return [
        ...section('Present', of('present'), 'present'), ...section('Undetermined', of('undetermined')),
        ...section('Absent', of('absent')), ...section('Not evaluated', of('not evaluated')),
        ...section('Failed', of('failed')), ...section('Measurements', result.measurements),
        ...section('Priority', [result.priority].filter(Boolean)), ...section('To be read with care', result.cautions),
        ...section('Made by', [label, ...result.runs, result.summary].filter(Boolean)),
      ];
    }

    function update() {
      const words = overlay?.inWords() ?? null;
      const result = words?.result ?? null;
      const text = result ? `AI${words.image ? ` (${words.image})` : ''}: ${oneLine(result)}` : '';
      superseded.hidden = !overlay?.showsSuperseded();
      const state = JSON.stringify([Boolean(words), words?.label, result, text]);
      if (state === shown) return; // a person may be reading or tabbing through it
      shown = state;
      button.hidden = !result;
      none.hidden = !words || Boolean(result);
      button.textContent = text;
      button.title = text;
      panel.replaceChildren(...(result ? sections(words) : []));
      if (!result) open(false);
    }

    button.addEventListener('click', () => open(panel.hidden));
    superseded.addEventListener('click', () => overlay.showCurrent());
    strip.addEventListener('keydown', event => {
      event.stopPropagation(); // the viewer's shortcuts are not meant here
      if (event.key !== 'Escape' || panel.hidden) return;
      open(false);
      button.focus();
    });
    button.setAttribute('aria-expanded', 'false');
    const add = () => { document.head.append(style); document.body.append(strip); };
    return { add, update, follow: followed => { overlay = followed; }, complain: () => { problem.hidden = false; },
      reset: () => { problem.hidden = true; open(false); update(); } };
  }

  const strip = createStrip();
  if (document.body) strip.add();
  else document.addEventListener('DOMContentLoaded', strip.add, { once: true });

  // --- OHIF ----------------------------------------------------------------------------------------------------------
  let overlay;
  let subscriptions = [];
  const extension = {
    id: 'hilum',
    version: '1.0.0',
    preRegistration({ servicesManager, commandsManager, extensionManager }) {
      const { hangingProtocolService } = servicesManager.services;
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
      createLogoComponentFn: React => React.createElement('a', { href: '/hilum/', title: 'Back to the worklist',
        style: { font: '600 16px Inter, sans-serif', color: '#d9dee8' } }, 'Hilum'),
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
