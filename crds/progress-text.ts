// Progress text of long copies: share, bytes, rate and time left.

const bytesText = (bytes: number): string => (bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`);

function timeText(seconds: number): string {
  const whole = Math.ceil(seconds);
  return whole < 120 ? `${whole} s` : `${Math.ceil(whole / 60)} min`;
}

interface Done {
  readonly bytes: number;
  readonly of: number;
  readonly bytesPerSecond: number;
}

export const shareText = ({ bytes, of }: Pick<Done, "bytes" | "of">): string => `${Math.floor((100 * bytes) / Math.max(of, 1))}%`;

export function progressText({ bytes, of, bytesPerSecond }: Done): string {
  const left = bytesPerSecond <= 0 ? "" : `, ${timeText((of - bytes) / bytesPerSecond)} left`;
  return `${shareText({ bytes, of })}, ${bytesText(bytes)} of ${bytesText(of)}, ${bytesText(bytesPerSecond)}/s${left}`;
}
