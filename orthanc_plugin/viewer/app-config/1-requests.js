// Requests.

// Orthanc's DICOMweb plugin takes "includefield=a%2Cb" for one unknown field and answers without any description.
const openRequest = XMLHttpRequest.prototype.open;
XMLHttpRequest.prototype.open = function open(method, url, ...rest) {
  const repeated = String(url).replace(/includefield=([^&]*)/gi, (_, fields) =>
    fields.split(/%2C|,/i).map(field => `includefield=${field}`).join('&'));
  return openRequest.call(this, method, repeated, ...rest);
};
