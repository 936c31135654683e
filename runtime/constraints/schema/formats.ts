// The formats of JSON Schema that texts are held to, as whole expressions; any other format is an annotation, as the standard says.

const [month, hour, minute] = ["(?:0[1-9]|1[0-2])", "(?:[01]\\d|2[0-3])", "[0-5]\\d"];
const leapYear = "(?:\\d\\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)";
const days = `(?:${month}-(?:0[1-9]|1\\d|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)`;
const date = `(?:\\d{4}-${days}|${leapYear}-02-29)`;
const time = `${hour}:${minute}:${minute}(?:\\.\\d{1,9})?(?:Z|[+-]${hour}:${minute})`;
const times = "T(?:\\d+H(?:\\d+M(?:\\d+S)?)?|\\d+M(?:\\d+S)?|\\d+S)";
const dates = "(?:\\d+Y(?:\\d+M(?:\\d+D)?)?|\\d+M(?:\\d+D)?|\\d+D)";
const label = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
const atom = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+";
const octet = "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
const group = "[0-9A-Fa-f]{1,4}";
/** What stands before and behind the two colons is seven groups at most. */
const shortened = [1, 2, 3, 4, 5, 6].map((before) => `(?:${group}:){1,${before}}(?::${group}){1,${7 - before}}`);

export interface Format {
  readonly pattern: string;
  /** A bound that the standard of the format has. */
  readonly charactersMax?: number;
}

export const formats: Readonly<Record<string, Format>> = {
  "date-time": { pattern: `${date}T${time}` },
  date: { pattern: date },
  time: { pattern: time },
  duration: { pattern: `P(?:${dates}(?:${times})?|${times}|\\d+W)` },
  email: { pattern: `${atom}(?:\\.${atom})*@${label}(?:\\.${label})+`, charactersMax: 254 },
  hostname: { pattern: `${label}(?:\\.${label})*`, charactersMax: 253 },
  ipv4: { pattern: `${octet}(?:\\.${octet}){3}` },
  ipv6: { pattern: [`(?:${group}:){7}${group}`, `(?:${group}:){1,7}:`, ...shortened, `::(?:${group}(?::${group}){0,6})?`].join("|") },
  uuid: { pattern: "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}" },
};
