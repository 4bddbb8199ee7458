//! A dashboard as Grafana's JSON (schema 41, Grafana 12).
//!
//! Everything that is the same for all panels is said here once: whose data it is, how lines look, where a panel
//! lies. Keys are sorted, so that the text is the same whoever makes it.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::source::{Dashboard, Draw, Language, Link, Panel, Variable};

/// Schema of the JSON, which Grafana migrates from when it is older than its own.
const SCHEMA_VERSION: u32 = 41;

/// Width of the screen in Grafana's columns.
const SCREEN: u32 = 24;

/// Address of a dashboard in Grafana, and its name in links.
pub fn uid(name: &str, language: Language) -> String {
    match language {
        Language::English => format!("nodescope-{name}"),
        Language::Chinese => format!("nodescope-{name}-zh"),
    }
}

/// The JSON, indented, with a newline at its end.
pub fn grafana_json(dashboard: &Dashboard, language: Language) -> String {
    let tags: Vec<_> = dashboard.tags.iter().map(String::as_str).chain([language.code()]).collect();
    let value = json!({
        "annotations": { "list": [] },
        "description": dashboard.description.of(language),
        "editable": true,
        "fiscalYearStartMonth": 0,
        "graphTooltip": 1,
        "links": [others(language)],
        "panels": panels(dashboard, language),
        "refresh": dashboard.refresh,
        "schemaVersion": SCHEMA_VERSION,
        "tags": tags,
        "templating": { "list": dashboard.variables.iter().map(|v| variable(v, language)).collect::<Vec<_>>() },
        "time": { "from": dashboard.from, "to": "now" },
        "timepicker": {},
        "timezone": "browser",
        "title": dashboard.title.of(language),
        "uid": uid(&dashboard.name, language),
        "weekStart": "",
    });
    format!("{:#}\n", sorted(value))
}

/// The menu of all dashboards of the same language, which keeps the time and what is chosen.
fn others(language: Language) -> Value {
    json!({
        "asDropdown": true,
        "icon": "external link",
        "includeVars": true,
        "keepTime": true,
        "tags": ["nodescope", language.code()],
        "targetBlank": false,
        "title": match language {
            Language::English => "Dashboards",
            Language::Chinese => "全部看板",
        },
        "type": "dashboards",
    })
}

fn data_source() -> Value {
    json!({ "type": "grafana-postgresql-datasource", "uid": "nodescope" })
}

fn variable(variable: &Variable, language: Language) -> Value {
    let all = json!({ "selected": true, "text": ["All"], "value": ["$__all"] });
    json!({
        "current": if variable.several { all } else { json!({}) },
        "datasource": data_source(),
        "definition": variable.sql,
        "description": variable.description.of(language),
        "hide": 0,
        "includeAll": variable.several,
        "label": variable.label.of(language),
        "multi": variable.several,
        "name": variable.name,
        "options": [],
        "query": variable.sql,
        // Asked when the dashboard opens. Not at every change of the range: zooming in on a few seconds would leave
        // nothing to choose from.
        "refresh": 1,
        "regex": "",
        "skipUrlSync": false,
        "sort": 0,
        "type": "query",
    })
}

/// All panels with their headings, numbered from 1 and laid out from left to right, from the top.
fn panels(dashboard: &Dashboard, language: Language) -> Vec<Value> {
    let mut out = Vec::new();
    let mut y = 0_u32;
    for row in &dashboard.rows {
        out.push(json!({
            "collapsed": false,
            "gridPos": { "h": 1, "w": SCREEN, "x": 0, "y": y },
            "id": out.len() + 1,
            "panels": [],
            "title": row.title.of(language),
            "type": "row",
        }));
        y += 1;
        let (mut x, mut tallest) = (0_u32, 0_u32);
        for panel in &row.panels {
            if x + panel.width > SCREEN {
                y += tallest;
                (x, tallest) = (0, 0);
            }
            let place = json!({ "h": panel.height, "w": panel.width, "x": x, "y": y });
            out.push(drawn(panel, language, out.len() + 1, &place));
            x += panel.width;
            tallest = tallest.max(panel.height);
        }
        y += tallest;
    }
    out
}

fn drawn(panel: &Panel, language: Language, id: usize, place: &Value) -> Value {
    let (kind, options, custom) = match panel.draw {
        Draw::Lines => ("timeseries", line_options(), line_look(panel)),
        Draw::Stat => ("stat", stat_options(panel), json!({})),
        Draw::Table => ("table", json!({ "cellHeight": "sm", "showHeader": true }), json!({ "filterable": true })),
        Draw::Bars => ("barchart", bar_options(), json!({ "fillOpacity": 80, "lineWidth": 0 })),
        Draw::Timeline => {
            ("state-timeline", band_options(), json!({ "fillOpacity": 80, "lineWidth": 0, "spanNulls": false }))
        }
    };
    let by_threshold = matches!(panel.draw, Draw::Stat | Draw::Timeline);
    let mut defaults = json!({
        "color": { "mode": if by_threshold { "thresholds" } else { "palette-classic" } },
        "custom": custom,
        "thresholds": { "mode": "absolute", "steps": steps(panel) },
    });
    if !panel.unit.is_empty() {
        defaults["unit"] = json!(panel.unit);
    }
    if let Some(min) = panel.min {
        defaults["min"] = json!(min);
    }
    if let Some(max) = panel.max {
        defaults["max"] = json!(max);
    }
    json!({
        "datasource": data_source(),
        "description": panel.description.of(language),
        "fieldConfig": { "defaults": defaults, "overrides": overrides(panel, language) },
        "gridPos": place,
        "id": id,
        "interval": format!("{}s", panel.min_interval_seconds),
        "options": options,
        "targets": [{
            "datasource": data_source(),
            "editorMode": "code",
            "format": panel.format().as_str(),
            "rawQuery": true,
            "rawSql": panel.sql,
            "refId": "A",
        }],
        "title": panel.title.of(language),
        "type": kind,
    })
}

fn line_options() -> Value {
    json!({
        "legend": { "calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": true },
        "tooltip": { "mode": "multi", "sort": "desc" },
    })
}

/// Many bars lie down, so that their names can be read.
fn bar_options() -> Value {
    json!({
        "barWidth": 0.8,
        "fullHighlight": false,
        "groupWidth": 0.8,
        "legend": { "calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": true },
        "orientation": "horizontal",
        "showValue": "auto",
        "stacking": "normal",
        "tooltip": { "mode": "multi", "sort": "none" },
        "xTickLabelMaxLength": 40,
    })
}

fn band_options() -> Value {
    json!({
        "alignValue": "left",
        "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true },
        "mergeValues": false,
        "rowHeight": 0.9,
        "showValue": "never",
        "tooltip": { "mode": "single", "sort": "none" },
    })
}

fn line_look(panel: &Panel) -> Value {
    json!({
        "drawStyle": "line",
        "fillOpacity": if panel.stacked { 30 } else { 8 },
        "lineWidth": 1,
        "showPoints": "auto",
        // A gap is a gap: nothing was measured, or nothing arrived.
        "spanNulls": false,
        "stacking": { "group": "A", "mode": if panel.stacked { "normal" } else { "none" } },
        "thresholdsStyle": { "mode": if panel.thresholds.is_empty() { "off" } else { "dashed" } },
    })
}

fn stat_options(panel: &Panel) -> Value {
    json!({
        "colorMode": if panel.thresholds.is_empty() { "none" } else { "value" },
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
        "textMode": "auto",
        "wideLayout": true,
    })
}

fn steps(panel: &Panel) -> Vec<Value> {
    let base = json!({ "color": "green", "value": null });
    let further = panel.thresholds.iter().map(|t| json!({ "color": t.colour, "value": t.at }));
    std::iter::once(base).chain(further).collect()
}

/// Names, units and links of single columns. In a table, a ratio is also drawn as a bar, in the colour of its threshold.
fn overrides(panel: &Panel, language: Language) -> Vec<Value> {
    let columns: BTreeSet<&String> = panel.names.keys().chain(panel.units.keys()).chain(panel.links.keys()).collect();
    let properties = |column: &String| {
        let mut properties = Vec::new();
        if let Some(name) = panel.names.get(column) {
            properties.push(json!({ "id": "displayName", "value": name.of(language) }));
        }
        if let Some(unit) = panel.units.get(column) {
            properties.push(json!({ "id": "unit", "value": unit }));
            if panel.draw == Draw::Table && unit == "percentunit" {
                properties.push(json!({ "id": "min", "value": 0 }));
                properties.push(json!({ "id": "max", "value": 1 }));
                properties.push(json!({ "id": "color", "value": { "mode": "thresholds" } }));
                properties.push(json!({
                    "id": "custom.cellOptions",
                    "value": { "mode": "basic", "type": "gauge", "valueDisplayMode": "text" },
                }));
            }
        }
        if let Some(link) = panel.links.get(column) {
            properties.push(json!({ "id": "links", "value": [leads(link, language)] }));
        }
        properties
    };
    let matched =
        |column| json!({ "matcher": { "id": "byName", "options": column }, "properties": properties(column) });
    columns.into_iter().map(matched).collect()
}

/// The way to another dashboard, with values of the row chosen there.
fn leads(link: &Link, language: Language) -> Value {
    let chosen: String =
        link.pass.iter().map(|(variable, column)| format!("&var-{variable}=${{__data.fields.{column}}}")).collect();
    json!({
        "title": match language {
            Language::English => "Open",
            Language::Chinese => "打开",
        },
        "url": format!("/d/{}?${{__url_time_range}}{chosen}", uid(&link.to, language)),
    })
}

/// The same value with the keys of every object in order, whatever order this build of `serde_json` keeps.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map.into_iter().collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().map(|(key, value)| (key, sorted(value))).collect::<Map<_, _>>())
        }
        other => other,
    }
}
