// Words that commands share: how long ago a time was, and lists that end with how many more there are. Pure.

/** "40 s ago", "3 min ago", "5 h ago", "4 d ago". */
export function ago(time: Date, now: Date): string {
  return `${span(now.getTime() - time.getTime())} ago`;
}

/** Rounded down to one unit: "40 s", "3 min", "5 h", "4 d". */
export function span(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 2 * 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 2 * 86_400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

/** The text in lines of no more than `columns`, parted between words; those after the first begin with `indent` blanks. A word that is
 *  longer than a line stays whole, and so do the first two. */
export function wrapped(text: string, columns: number, indent: number): string[] {
  const [first = "", ...words] = text.match(/\s*\S+/g) ?? [];
  const lines: string[] = [];
  let line = first;
  for (const word of words) {
    if (line === first || line.length + word.length <= columns) line += word;
    else {
      lines.push(line);
      line = " ".repeat(indent) + word.trimStart();
    }
  }
  return [...lines, line];
}

/** The first `max` by comma, then how many there are beside them. */
export function listed(names: readonly string[], max: number): string {
  const rest = names.length - max;
  return `${names.slice(0, max).join(", ")}${rest > 0 ? ` and ${rest} more` : ""}`;
}
