// The noise that `generate` draws: JAX's Threefry-2x32 and its normal numbers.

const ROTATIONS = [[13, 15, 26, 6], [17, 29, 16, 24]];
const SMALLEST = Math.fround(-1 + 2 ** -24); // The float32 after -1.
// Of the inverse error function (Giles 2012), highest power first: near 0, and in the tails.
const CENTRE = [
  2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503,
  -0.00417768164, 0.246640727, 1.50140941,
];
const TAIL = [
  -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613,
  0.00943887047, 1.00167406, 2.83297682,
];

// Two 32-bit words from a key of two and a counter of two.
export function threefry(key, counter) {
  const keys = [key[0], key[1], key[0] ^ key[1] ^ 0x1bd11bda];
  let [x, y] = [(counter[0] + keys[0]) | 0, (counter[1] + keys[1]) | 0];
  for (let round = 0; round < 5; round++) {
    for (const rotation of ROTATIONS[round % 2]) {
      x = (x + y) | 0;
      y = ((y << rotation) | (y >>> (32 - rotation))) ^ x;
    }
    x = (x + keys[(round + 1) % 3]) | 0;
    y = (y + keys[(round + 2) % 3] + round + 1) | 0;
  }
  return [x >>> 0, y >>> 0];
}

function inverseErrorFunction(u) {
  const w = -Math.log1p(-Math.fround(u * u)); // In the tails its rounding shows.
  const [coefficients, at] = w < 5 ? [CENTRE, w - 2.5] : [TAIL, Math.sqrt(w) - 3];
  return u * coefficients.reduce((sum, c) => sum * at + c, 0);
}

// Row `index` of `make_noise(…, zDim, seed, 0)`; the seed is a whole number from 0 to 2^31 - 1.
export function makeNoise(zDim, seed, index) {
  const key = threefry([0, seed], [0, index]);
  return Float32Array.from({ length: zDim }, (_, i) => {
    const [high, low] = threefry(key, [0, i]);
    const share = ((high ^ low) >>> 9) * 2 ** -23; // In [0, 1).
    const u = Math.max(SMALLEST, Math.fround(Math.fround(2 * share) + SMALLEST));
    return Math.SQRT2 * inverseErrorFunction(u);
  });
}

// The vector at a share of the arc from a to b: its angle and its length change evenly.
export function arc(a, b, share) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  const cosine = dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  const angle = Math.acos(Math.min(1, Math.max(-1, cosine))), sine = Math.sin(angle);
  const [p, q] = sine < 1e-6
    ? [1 - share, share]
    : [Math.sin((1 - share) * angle) / sine, Math.sin(share * angle) / sine];
  return a.map((value, i) => p * value + q * b[i]);
}
