// The HTTPRoute of a deployment. It exposes the API only, not the port's other paths. Pure.
import type { GatewayRoute } from "../../../crds/gateway-route.ts";
import { type KubeObject, resources } from "../../kube/kube.ts";
import { objectMeta, type RenderContext } from "./context.ts";

const apiRoot = "/v1";

export function httpRoute(context: RenderContext, route: GatewayRoute): KubeObject {
  const { parentRefs, hostnames, pathPrefix, modelHeader, timeouts } = route;
  const { metadata, spec } = context.deployment;
  const { name } = metadata;
  const headers = modelHeader === undefined ? {} : { headers: [{ name: modelHeader, value: spec.model.servedName ?? name }] };
  const rewrite = { type: "URLRewrite", urlRewrite: { path: { type: "ReplacePrefixMatch", replacePrefixMatch: apiRoot } } };
  return {
    apiVersion: resources.httpRoutes.apiVersion,
    kind: resources.httpRoutes.kind,
    metadata: objectMeta(context, name, "gateway"),
    spec: {
      parentRefs,
      ...(hostnames === undefined ? {} : { hostnames }),
      rules: [
        {
          matches: [{ path: { type: "PathPrefix", value: `${pathPrefix ?? ""}${apiRoot}` }, ...headers }],
          ...(pathPrefix === undefined ? {} : { filters: [rewrite] }),
          backendRefs: [{ name, port: spec.service.port }],
          timeouts,
        },
      ],
    },
  };
}
