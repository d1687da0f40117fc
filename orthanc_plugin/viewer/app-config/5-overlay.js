// Drawing.

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
