// Hanging.

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
