// The registry of pages: functions from source and query to a title and sections. Pure.
import { z } from "zod";
import type { Observed, Subject } from "../views/findings/finding.ts";
import type { HeatView } from "./heat.ts";
import { type Html, html } from "./html.ts";
import type { Sections } from "./sections.ts";
import { deploymentSections } from "./sections-deployment.ts";
import { findingsHtml } from "./sections-findings.ts";
import { fleetSections } from "./sections-fleet.ts";
import { jobSections } from "./sections-job.ts";
import type { Read, Source } from "./state.ts";

export interface Panel {
  readonly heading: string;
  readonly sections: readonly string[];
  /** The script draws a map here. */
  readonly map?: boolean;
}

export interface Page {
  readonly title: string;
  readonly panels: readonly Panel[];
  readonly sections: Sections;
  readonly heat?: HeatView | undefined;
  /** Static HTML above the panels. */
  readonly above?: Html;
  readonly status: 200 | 404;
}

const searchCharsMax = 120;

const objectName = z.string().min(1).max(253);
const requestSchema = z.object({
  namespace: objectName,
  name: objectName,
  layer: z
    .string()
    .regex(/^\d{1,4}$/)
    .transform(Number)
    .optional()
    .catch(undefined),
});

const requestOf = (query: URLSearchParams): Request | undefined => requestSchema.safeParse(Object.fromEntries(query)).data;

const missing = (title: string, text: string): Page => ({
  title,
  panels: [{ heading: title, sections: ["missing"] }],
  sections: { missing: html`<p>${text} <a href="./">All deployments</a></p>` },
  status: 404,
});

function fleetPage(source: Source, query: URLSearchParams): Page {
  const search = (query.get("search") ?? "").slice(0, searchCharsMax);
  return {
    title: "Deployments and training jobs",
    above: html`<form class="choose" method="get" action="./" role="search"><label for="search">Name</label>
<input id="search" name="search" type="search" maxlength="${searchCharsMax}" value="${search}"> <button>Search</button></form>`,
    panels: [
      { heading: "Deployments", sections: ["summary", "deployments"] },
      { heading: "Training jobs", sections: ["jobs"] },
    ],
    sections: fleetSections(source, search),
    status: 200,
  };
}

type Request = z.infer<typeof requestSchema>;
type Shown<T> = (read: Read<T> & { readonly parsed: T }, request: Request) => Pick<Page, "panels" | "sections" | "heat">;

function pageOf<T>(what: string, all: readonly Read<T>[], query: URLSearchParams, shown: Shown<T>): Page {
  const request = requestOf(query);
  const read = all.find((one) => one.namespace === request?.namespace && one.name === request.name);
  if (request === undefined || read === undefined) return missing(`No such ${what}`, `There is no ${what} of this name, or it is gone.`);
  const title = `${read.namespace}/${read.name}`;
  const { parsed } = read;
  if (parsed === undefined) return missing(title, `It cannot be read: ${read.problem}`);
  return { title, ...shown({ ...read, parsed }, request), status: 200 };
}

/** Ages are told in steps, so that a command that is being copied stays for a while. */
const agesMs = 10_000;

function findingsOf(source: Source, { kind, namespace, name }: Subject, judged: Pick<Observed, "deployments" | "jobs">): Html {
  const now = new Date(Math.ceil(source.now / agesMs) * agesMs);
  const observed = { now, ...judged, pods: source.pods(kind, { namespace, name }), ...source.warnings(namespace) };
  return findingsHtml(observed, `enodia status ${kind === "moed" ? `${name} ` : ""}-n ${namespace}`);
}

const deploymentPanels: readonly Panel[] = [
  { heading: "Now", sections: ["headline", "findings", "head", "placement"] },
  { heading: "Experts and ranks", sections: ["layers", "uneven"], map: true },
  { heading: "Ranks", sections: ["ranks"] },
  { heading: "The last hour", sections: ["hour"] },
  { heading: "Decisions", sections: ["decisions"] },
  { heading: "Moves", sections: ["moves"] },
  { heading: "Operations", sections: ["operations"] },
  { heading: "Use it", sections: ["use"] },
  { heading: "Conditions", sections: ["conditions"] },
];

function deploymentPage(source: Source, query: URLSearchParams): Page {
  return pageOf("deployment", source.deployments(), query, ({ parsed, uid, changedAt }, { layer }) => {
    const placement = source.placement(uid);
    const { sections, heat } = deploymentSections({ deployment: parsed, placement, remembered: source.remembered(uid), chosen: layer });
    const { plan, underWay, status } = placement ?? {};
    const { epoch } = underWay?.plan ?? plan ?? {};
    const judged = { deployment: parsed, placement: epoch === undefined || !status ? undefined : { spec: { epoch }, status }, changedAt };
    const findings = findingsOf(source, { kind: "moed", ...parsed.metadata }, { deployments: [judged], jobs: [] });
    return { panels: deploymentPanels, sections: { ...sections, findings }, heat };
  });
}

const jobPanels: readonly Panel[] = [
  { heading: "Now", sections: ["findings", "head"] },
  { heading: "Loss", sections: ["loss"] },
  { heading: "World", sections: ["world"] },
  { heading: "Conditions", sections: ["conditions"] },
];

function jobPage(source: Source, query: URLSearchParams): Page {
  return pageOf("training job", source.jobs(), query, ({ parsed }) => {
    const findings = findingsOf(source, { kind: "moet", ...parsed.metadata }, { deployments: [], jobs: [parsed] });
    return { panels: jobPanels, sections: { ...jobSections(parsed), findings } };
  });
}

/** Keys are the last parts of paths. */
export const pages: Readonly<Record<string, (source: Source, query: URLSearchParams) => Page>> = {
  "": fleetPage,
  deployment: deploymentPage,
  job: jobPage,
};
