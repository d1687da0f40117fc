// Requests.

// Orthanc's DICOMweb plugin takes "includefield=a%2Cb" for one unknown field and answers without any description.
const openRequest = XMLHttpRequest.prototype.open;
XMLHttpRequest.prototype.open = function open(method, url, ...rest) {
  const repeated = String(url).replace(/includefield=([^&]*)/gi, (_, fields) =>
    fields.split(/%2C|,/i).map(field => `includefield=${field}`).join('&'));
  this.addEventListener('loadend', () => { if (this.status === 403) askWhoIsHere(); });
  return openRequest.call(this, method, repeated, ...rest);
};

// Images are refused with 403, whatever the reason; when nobody is logged in any more, the log-in page leads back here.
let asking = false;
const askWhoIsHere = async () => {
  if (asking) return;
  asking = true;
  try {
    const answer = await fetch('/hilum/api/visitor');
    if (answer.status === 401) location.assign(`/hilum/login?next=${encodeURIComponent(location.pathname + location.search)}`);
  } finally {
    asking = false;
  }
};
