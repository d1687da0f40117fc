// OHIF's study list: a column with the priority that the AI gave. The attributes of the study are left as they are.

const PRIORITIES_AT_ONCE = 500;
const LIST = /^\/ohif\/?$/;

const priorityOf = study => PRIORITIES[study.hilumState?.priority] ?? UNKNOWN;
const priorityInWords = study => [priorityOf(study)[1],
  study.hilumState && priorityOf(study)[1] && (study.hilumState.is_read ? 'read' : 'unread')].filter(Boolean).join(', ');

/** The studies with what the worklist knows of them; without it they are shown as they are. */
async function withPriorities(studies) {
  const body = new URLSearchParams(studies.slice(0, PRIORITIES_AT_ONCE).map(s => ['study_instance_uid', s.studyInstanceUid]));
  try {
    const answer = await fetch('/hilum/api/priorities', { method: 'POST', body });
    const known = answer.ok ? (await answer.json()).studies : {};
    return studies.map(study => ({ ...study, hilumState: known[study.studyInstanceUid] }));
  } catch {
    return studies;
  }
}

/** Have the list ask for priorities as well; other searches, such as for a patient's studies, go on as they are. */
function askForPriorities(dataSource) {
  const { studies } = dataSource.query, search = studies.search;
  studies.search = async (asked, ...rest) => {
    const found = await search.call(studies, asked, ...rest);
    return LIST.test(window.location.pathname) && found?.length ? withPriorities(found) : found;
  };
}

let react; // OHIF's own, from where it gives it

/** The columns of OHIF with one more, after the patient. */
function withPriorityColumn(columns) {
  const like = columns.find(column => column.id === 'mrn');
  if (!like) return columns;
  const column = { ...like, id: 'hilumPriority', accessorFn: priorityInWords,
    cell: ({ row }) => (react && priorityOf(row.original)[2]
      ? react.createElement('div', { className: 'truncate', style: { color: priorityOf(row.original)[2] } }, priorityInWords(row.original))
      : priorityInWords(row.original)),
    sortingFn: (a, b) => priorityOf(a.original)[0] - priorityOf(b.original)[0],
    meta: { ...like.meta, label: 'AI priority', headerClassName: 'min-w-[150px]', cellClassName: 'min-w-[150px]', minWidth: 150,
      priority: 95 } };
  return [columns[0], column, ...columns.slice(1)];
}
