// Bit-packed frames.

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
