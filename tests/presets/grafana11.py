"""A little Grafana 11: it takes and gives the fields of the HTTP API's documentation of that version, and no others.

Sources: docs/sources/developers/http_api/{data_source,dashboard,folder_dashboard_search,alerting_provisioning}.md, and
for status codes and messages pkg/services/ngalert/api/api_provisioning.go, of github.com/grafana/grafana.
"""

from __future__ import annotations

import json
import re

DATASOURCE = {"id", "uid", "orgId", "name", "type", "typeLogoUrl", "access", "url", "password", "user", "database",
              "basicAuth", "basicAuthUser", "basicAuthPassword", "withCredentials", "isDefault", "jsonData",
              "secureJsonFields", "version", "readOnly"}
SENT_DATASOURCE = DATASOURCE | {"secureJsonData"}
SENT_DASHBOARD = {"dashboard", "folderUid", "message", "overwrite"}
FOUND = {"id", "uid", "title", "uri", "url", "type", "tags", "isStarred"}
POINT = {"uid", "name", "type", "settings", "disableResolveMessage"}
ROUTE = {"receiver", "group_by", "object_matchers", "mute_time_intervals", "continue", "routes", "group_wait",
         "group_interval", "repeat_interval", "provenance"}
UID = re.compile(r"[a-zA-Z0-9_-]{1,40}")


class Grafana:
    """Whose `datasources`, `dashboards` and `points` are by name or uid, and whose `tree` is that of the policies."""

    def __init__(self):
        self.datasources, self.dashboards, self.points, self.asked = {}, {}, {}, []
        self.tree = {"receiver": "grafana-default-email", "group_by": ["grafana_folder", "alertname"]}

    def answer(self, asked):
        path, _, query = asked.path.partition("?")
        body = json.loads(asked.body) if asked.body else None
        if path in ("/", "/api/health"):
            return {"commit": "0", "database": "ok", "version": "11.6.0"}
        if asked.headers["Authorization"] != "Basic YWRtaW46YWRtaW4=":
            return 401, {"message": "Invalid username or password"}
        self.asked.append(f"{asked.method} {path}")
        for pattern, handler in ((r"/api/datasources(?:/name|/uid)?(?:/(.+))?", self.on_datasource),
                                 (r"/api/dashboards/(?:db|uid/(.+))", self.on_dashboard),
                                 (r"/api/search()", lambda *_: self.search(query)),
                                 (r"/api/v1/provisioning/contact-points(?:/(.+))?", self.on_point),
                                 (r"/api/v1/provisioning/policies()", self.on_policies)):
            if found := re.fullmatch(pattern, path):
                return handler(asked.method, found[1], body)
        return 404, {"message": "Not found"}

    def on_datasource(self, method, name, body):
        if method == "GET":
            found = self.datasources.get(name)
            return found or (404, {"message": "Data source not found"})
        assert body.keys() <= SENT_DATASOURCE, body
        if method == "POST" and body["name"] in self.datasources:
            return 409, {"message": "data source with the same name already exists"}
        kept = {**dict.fromkeys(DATASOURCE, ""), "uid": f"u{len(self.datasources)}", "jsonData": {}, "readOnly": False,
                **{key: value for key, value in body.items() if key != "secureJsonData"},
                "secureJsonFields": dict.fromkeys(body.get("secureJsonData", {}), True)}
        self.datasources[body["name"]] = kept
        return {"datasource": kept, "id": 1, "name": body["name"],
                "message": "Datasource added" if method == "POST" else "Datasource updated"}

    def on_dashboard(self, method, uid, body):
        if method == "DELETE":
            gone = self.dashboards.pop(uid, None)
            return {"title": gone["title"], "message": "", "id": 1} if gone else (404, {"message": "Not found"})
        assert body.keys() <= SENT_DASHBOARD, body
        one = body["dashboard"]
        assert UID.fullmatch(one["uid"]), one
        self.dashboards[one["uid"]] = one
        return {"id": 1, "uid": one["uid"], "url": f"/d/{one['uid']}/x", "status": "success", "version": 1, "slug": "x"}

    def search(self, query):
        tag = re.search("tag=([^&]+)", query)[1]
        return [{**dict.fromkeys(FOUND, ""), "type": "dash-db", "uid": uid, "title": one["title"], "tags": one["tags"]}
                for uid, one in self.dashboards.items() if tag in one["tags"]]

    def on_point(self, method, uid, body):
        if method == "GET":
            return list(self.points.values())
        if method == "DELETE":
            if self.points[uid]["name"] in receivers(self.tree):
                return 409, {"message": "Contact point is currently referenced by a notification policy."}
            del self.points[uid]
            return 202, {"message": "contactpoint deleted"}
        is_whole = {"name", "type", "settings"} <= body.keys() <= POINT
        if not is_whole or not UID.fullmatch(body["uid"]):
            return 400, {"message": "invalid object specification"}
        if method == "PUT" and uid not in self.points:
            return 404, {"message": "contact point not found"}
        self.points[body["uid"]] = {"disableResolveMessage": False, **body}
        return 202, self.points[body["uid"]] if method == "POST" else {"message": "contactpoint updated"}

    def on_policies(self, method, _, body):
        if method == "GET":
            return self.tree
        names = {one["name"] for one in self.points.values()} | {"grafana-default-email"}
        if not body.keys() <= ROUTE or not receivers(body) <= names:
            return 400, {"message": "invalid object specification: receiver does not exist"}
        self.tree = body
        return 202, {"message": "policies updated"}


def receivers(tree):
    """Every contact point that a tree of policies leads to."""
    return {tree["receiver"]}.union(*map(receivers, tree.get("routes", [])))
