// The parts of a Markdown document that docs.test.ts checks: its links and headings, and the files that it names. It knows as much of
// Markdown as the repository's documents use.

/** The part that is no code between fences. */
const prose = (document: string): string => document.replaceAll(/^\s*(```+)[\s\S]*?^\s*\1\s*$/gm, "");

/** Targets of links, relative ones only. */
export function links(document: string): { readonly path: string; readonly anchor: string | undefined }[] {
  return [...prose(document).matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, target = ""]) => target)
    .filter((target) => !/^[a-z]+:/.test(target))
    .map((target) => {
      const [path = "", anchor] = target.split("#");
      return { path, anchor };
    });
}

/** The anchors of the headings, as GitHub makes them. */
export function anchors(document: string): string[] {
  return [...prose(document).matchAll(/^#{1,6} (.+)$/gm)].map(([, title = ""]) =>
    title
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\s-]/gu, "")
      .trim()
      .replaceAll(/\s/g, "-"),
  );
}

const source = /(?<![\w./<*-])(?:[\w@.-]+\/)*\w[\w.-]*\.(?:ts|mjs|py|proto)(?![\w<])/g;
const data = /(?<![\w./<*-])(?:[\w@.-]+\/)+[\w.-]+\.(?:md|ya?ml|json|tpl|svg)(?![\w<])/g;

/** Files of the repository that are named: sources also without a folder, others with one. Patterns such as `<name>.ts` are none. */
export function filesNamed(document: string): string[] {
  const text = document.replaceAll(/\bhttps?:\S+/g, "");
  return [...new Set([...text.matchAll(source), ...text.matchAll(data)].map(([path]) => path))];
}

/** Folders of the repository that are named as code with a slash at the end. */
export function foldersNamed(document: string): string[] {
  return [...new Set([...prose(document).matchAll(/`((?:[\w.-]+\/)+)`/g)].map(([, path = ""]) => path))];
}
