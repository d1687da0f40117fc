/* Hilum's configuration of OHIF 3.13, served live as /ohif/app-config.js. Nothing of OHIF is rebuilt.
 *
 * What it adds:
 *   - a study with radiographs opens with each radiograph, the current Hilum SEG over it and the boxes and lines of the
 *     current Hilum SR, labelled and locked, without a click;
 *   - whichever of our results is opened by hand, its radiograph is shown with just that result;
 *   - the study list has a column with the AI's priority, and leads back to the worklist;
 *   - a strip below the viewer: the priority and the results of the image in words, a permanent note that they are not verified, links
 *     back to the study's row of the worklist and to its own page.
 * Everything else, and everything of other makers, is OHIF as its authors made it.
 *
 * The rule: whatever fails here, the radiograph stays on the screen. A result that cannot be drawn is named in the
 * console and in window.hilum, and the strip says so.
 */
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
const PRIORITIES = { // rank, shape and colour, as on the worklist
  critical: [0, '\u25b2 Critical', '#ff7b7b'], urgent: [1, '\u25c6 Urgent', '#ffb454'],
  routine: [2, '\u25cb Routine', '#7cc4ff'], none: [3, '\u2013 Not rated', '#9dabb8'] };
const UNKNOWN = [4, '', ''];

const list = value => (value === undefined || value === null ? [] : Array.isArray(value) ? value : [value]);
