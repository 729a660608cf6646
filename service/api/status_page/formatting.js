// Numbers as text: percentages, counts, sizes, durations, intervals and changes.
// `service/reports/formatting.py` has the same functions for the report, and a test compares the two.

const SCALES = [
  [1e9, "B", "GB"],
  [1e6, "M", "MB"],
  [1e3, "k", "kB"]
];
const MIN_SCALED_COUNT = 1e4; // smaller counts are written in full
const whole = new Intl.NumberFormat("en");

/** 0.3041 -> "30.4 %", with a no-break space */
export const percent = (share, digits = 1) => `${(share * 100).toFixed(digits)}\u00a0%`;

/** 134515008 -> "134.5 M" */
export function count(number) {
  const found = SCALES.find(([scale]) => number >= Math.max(scale, MIN_SCALED_COUNT));
  return found ? `${(number / found[0]).toFixed(1)} ${found[1]}` : whole.format(number);
}

/** 269030016 -> "269.0 MB" */
export function size(number) {
  const found = SCALES.find(([scale]) => number >= scale);
  return found ? `${(number / found[0]).toFixed(1)} ${found[2]}` : `${number} B`;
}

/** 185.21 -> "185.2 ms" */
export const milliseconds = (number) => `${number.toFixed(1)} ms`;

/** 75.2 -> "1 min 15 s" */
export function duration(seconds) {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const rounded = Math.round(seconds);
  if (rounded < 60) return `${rounded} s`;
  if (rounded < 3600) return `${Math.floor(rounded / 60)} min ${rounded % 60} s`;
  return `${Math.floor(rounded / 3600)} h ${Math.floor((rounded % 3600) / 60)} min`;
}

/** The interval of an estimate: "82.3 % to 93.6 %" */
export const span = ({ low, high }) => `${percent(low)} to ${percent(high)}`;

/** An estimate with its interval: "89.2 % (82.3 % to 93.6 %)" */
export const interval = (estimate) => `${percent(estimate.value)} (${span(estimate)})`;

/** (4, 3) -> "−25.0 %"; empty where the first number is zero. */
export function change(before, after) {
  if (before === 0) return "";
  const share = after / before - 1;
  return `${share < 0 ? "−" : "+"}${percent(Math.abs(share))}`;
}
