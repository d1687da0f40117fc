// Structured reports.

const MEASUREMENT_REPORT = '126000'; // DCM; the codes of dicom_sr/codes.py
const IMAGING_MEASUREMENTS = '126010';
const MEASUREMENT_GROUP = '125007';
const TRACKING_IDENTIFIERS = ['112039', '112040'];
const STATES = { 52101004: 'present', 272519000: 'absent', 373068000: 'undetermined', NOTEVALUATED: 'not evaluated',
  FAILED: 'failed' };

// Findings of which the key does not make the name: they are called what their code is called (models/names.py).
const NAMED = ['covid_atypical', 'covid_indeterminate', 'covid_negative', 'covid_typical', 'pleural_other',
  'tuberculosis'];
const LEVELS = { RID49480: 'critical', RID49481: 'urgent', ROUTINE: 'routine', NOPRIORITY: 'none' };
const OF_ABSENCE = ['NOFINDING', 'COV19NEG'];

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
 * in a measurement group, beside it. What a state is inferred from, the criteria of a derived finding, is not told here.
 */
function read(report) {
  const items = descendants(report);
  const text = (scope, value) => named(scope, value).map(item => item.TextValue ?? codeOf(item).CodeMeaning)[0];
  const own = item => children(item).filter(child => child.RelationshipType !== 'INFERRED FROM');
  const about = (item, siblings) => (own(item).length ? own(item) : siblings);
  const findings = [report, ...items].flatMap(parent => children(parent)
    .filter(item => item.ValueType === 'CODE' && STATES[codeOf(item).CodeValue])
    .filter(item => conceptOf(item).CodeValue !== 'MODELRUN')
    .map(item => {
      const scope = about(item, children(parent));
      const site = named(scope, '363698007').flatMap(children);
      const certainty = numberOf(named(scope, '111012')[0]);
      const key = text(scope, TRACKING_IDENTIFIERS[0]);
      const name = key && !NAMED.includes(key) ? capitalised(key) : conceptOf(item).CodeMeaning;
      return { name, state: STATES[codeOf(item).CodeValue],
        percent: Number.isFinite(certainty) ? Math.round(certainty) : null,
        side: text(named(scope, '272741003').concat(named(site, '272741003')), '272741003')?.toLowerCase() ?? '',
        reason: text(scope, 'REASON') ?? '', ofAbsence: OF_ABSENCE.includes(conceptOf(item).CodeValue) };
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
  return { level: LEVELS[codeOf(priority).CodeValue], findings, measurements: [...measurements, ...lengths], runs,
    failed: codeOf(summary).CodeValue === '111245',
    summary: codeOf(summary).CodeMeaning ?? '',
    priority: urgency,
    cautions: [...new Set(named(items, 'CAUTION').map(item => codeOf(item).CodeMeaning))] };
}
