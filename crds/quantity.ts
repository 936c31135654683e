// Kubernetes quantities ("1.5Gi") and durations ("90s"), without exponents, milli-bytes or negative values; the CRD refuses those too.
import { z } from "zod";
import { AppError } from "./common.ts";

const quantityPattern = "^[0-9]+(\\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$";
const durationPattern = "^([0-9]{1,6}(ms|s|m|h)){1,3}$";

const units: Readonly<Record<string, number>> = {
  "": 1,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
};

/** Bytes as a whole number, or a string with a suffix. */
export function quantity(text: string) {
  const description = `${text} A quantity such as 512Mi or 1.5Gi.`;
  return z
    .union([z.int().min(1), z.string().max(24).regex(new RegExp(quantityPattern))])
    .refine((value) => typeof value === "number" || isBytes(value), { error: "is not between 1 byte and 2^53 bytes" })
    .meta({
      description,
      "x-kubernetes-int-or-string": true,
      maxLength: 24,
      pattern: quantityPattern,
      "x-kubernetes-validations": [
        { rule: "type(self) == int ? self > 0 : quantity(self).isGreaterThan(quantity('0'))", message: "must be more than 0 bytes" },
      ],
    });
}

function isBytes(text: string): boolean {
  try {
    return parseQuantity(text, "") > 0;
  } catch {
    return false;
  }
}

/** "90s" or "1m30s"; the API server refuses values below `least`. */
export function duration(description: string, least?: { readonly value: string; readonly why: string }) {
  const rule = least && { rule: `duration(self) >= duration('${least.value}')`, message: `must be at least ${least.value}: ${least.why}` };
  return z
    .string()
    .max(24)
    .regex(new RegExp(durationPattern))
    .meta({ description: `${description} A duration such as 90s or 1m30s.`, ...(rule ? { "x-kubernetes-validations": [rule] } : {}) });
}

export const autoDuration = "Auto";

interface AutoDuration {
  readonly least: string;
  readonly most: string;
  /** Describes the automatic value. */
  readonly auto: string;
}

export function durationOrAuto(description: string, { least, most, auto }: AutoDuration) {
  const pattern = `^(Auto|${durationPattern.slice(1, -1)})$`;
  const within = (text: string): boolean => {
    const [ms, min, max] = [text, least, most].map((each) => parseDuration(each, "")) as [number, number, number];
    return ms >= min && ms <= max;
  };
  const bounds = `must be Auto, or from ${least} to ${most}`;
  return z
    .string()
    .max(24)
    .regex(new RegExp(pattern))
    .refine((text) => text === autoDuration || (new RegExp(durationPattern).test(text) && within(text)), { error: bounds })
    .meta({
      description: `${description} A duration such as 90s, or Auto. ${auto}`,
      "x-kubernetes-validations": [
        {
          rule: `self == 'Auto' || (duration(self) >= duration('${least}') && duration(self) <= duration('${most}'))`,
          message: bounds,
        },
      ],
    });
}

/** Rounded up. */
export function parseQuantity(value: number | string, field: string): number {
  if (typeof value === "number") return checkBytes(value, field);
  const match = /^([0-9]+(?:\.[0-9]+)?)([A-Za-z]{0,2})$/.exec(value);
  const unit = match ? units[match[2] ?? ""] : undefined;
  if (!match || unit === undefined) throw invalid(field, `"${value}" is no byte quantity such as 512Mi or 1.5Gi`);
  return checkBytes(Math.ceil(Number(match[1]) * unit), field);
}

function checkBytes(bytes: number, field: string): number {
  if (!Number.isSafeInteger(bytes) || bytes <= 0) throw invalid(field, `${bytes} bytes is not between 1 and 2^53`);
  return bytes;
}

/** "2.55Gi". Remedies round up, so that following them is enough. */
export function formatBytes(bytes: number, round: "nearest" | "up" = "nearest"): string {
  const rounded = round === "up" ? Math.ceil : Math.round;
  for (const unit of ["Pi", "Ti", "Gi", "Mi", "Ki"]) {
    const size = units[unit] ?? 1;
    if (bytes >= size) return `${rounded((bytes / size) * 100) / 100}${unit}`;
  }
  return String(rounded(bytes));
}

const durationUnits: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

export function parseDuration(text: string, field: string): number {
  if (!new RegExp(durationPattern).test(text)) throw invalid(field, `"${text}" is no duration such as 90s or 1m30s`);
  let ms = 0;
  for (const [, digits, unit] of text.matchAll(/([0-9]+)(ms|s|m|h)/g)) ms += Number(digits) * (durationUnits[unit ?? ""] ?? 0);
  return ms;
}

function invalid(field: string, what: string): AppError {
  return new AppError(`${field}: ${what}`, { code: "InvalidSpec", operation: "reading a spec" });
}
