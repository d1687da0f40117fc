// Which result belongs to which image.

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
