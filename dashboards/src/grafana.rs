//! A dashboard as Grafana's JSON (schema 41, Grafana 12).
//!
//! Everything that is the same for all panels is said here once: whose data it is, how lines look, where a panel
//! lies. Keys are sorted, so that the text is the same whoever makes it.

use serde_json::{Map, Value, json};

use crate::source::{Dashboard, Draw, Panel, Variable};

/// Schema of the JSON, which Grafana migrates from when it is older than its own.
const SCHEMA_VERSION: u32 = 41;

/// Width of the screen in Grafana's columns.
const SCREEN: u32 = 24;

/// The JSON, indented, with a newline at its end.
pub fn grafana_json(dashboard: &Dashboard) -> String {
    let value = json!({
        "annotations": { "list": [] },
        "description": dashboard.description,
        "editable": true,
        "fiscalYearStartMonth": 0,
        "graphTooltip": 1,
        "links": [],
        "panels": panels(dashboard),
        "refresh": dashboard.refresh,
        "schemaVersion": SCHEMA_VERSION,
        "tags": dashboard.tags,
        "templating": { "list": dashboard.variables.iter().map(variable).collect::<Vec<_>>() },
        "time": { "from": dashboard.from, "to": "now" },
        "timepicker": {},
        "timezone": "browser",
        "title": dashboard.title,
        "uid": dashboard.uid,
        "weekStart": "",
    });
    format!("{:#}\n", sorted(value))
}

fn data_source() -> Value {
    json!({ "type": "grafana-postgresql-datasource", "uid": "nodescope" })
}

fn variable(variable: &Variable) -> Value {
    json!({
        "current": {},
        "datasource": data_source(),
        "definition": variable.sql,
        "description": variable.description,
        "hide": 0,
        "includeAll": false,
        "label": variable.label,
        "multi": false,
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
fn panels(dashboard: &Dashboard) -> Vec<Value> {
    let mut out = Vec::new();
    let mut y = 0_u32;
    for row in &dashboard.rows {
        out.push(json!({
            "collapsed": false,
            "gridPos": { "h": 1, "w": SCREEN, "x": 0, "y": y },
            "id": out.len() + 1,
            "panels": [],
            "title": row.title,
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
            out.push(drawn(panel, out.len() + 1, &place));
            x += panel.width;
            tallest = tallest.max(panel.height);
        }
        y += tallest;
    }
    out
}

fn drawn(panel: &Panel, id: usize, place: &Value) -> Value {
    let (kind, options, custom) = match panel.draw {
        Draw::Lines => ("timeseries", line_options(), line_look(panel)),
        Draw::Stat => ("stat", stat_options(panel), json!({})),
        Draw::Table => ("table", json!({ "cellHeight": "sm", "showHeader": true }), json!({ "filterable": true })),
    };
    let mut defaults = json!({
        "color": { "mode": if panel.draw == Draw::Stat { "thresholds" } else { "palette-classic" } },
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
        "description": panel.description,
        "fieldConfig": { "defaults": defaults, "overrides": overrides(panel) },
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
        "title": panel.title,
        "type": kind,
    })
}

fn line_options() -> Value {
    json!({
        "legend": { "calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": true },
        "tooltip": { "mode": "multi", "sort": "desc" },
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

/// Units of single columns. In a table, a ratio is also drawn as a bar, in the colour of its threshold.
fn overrides(panel: &Panel) -> Vec<Value> {
    panel
        .units
        .iter()
        .map(|(column, unit)| {
            let mut properties = vec![json!({ "id": "unit", "value": unit })];
            if panel.draw == Draw::Table && unit == "percentunit" {
                properties.push(json!({ "id": "min", "value": 0 }));
                properties.push(json!({ "id": "max", "value": 1 }));
                properties.push(json!({ "id": "color", "value": { "mode": "thresholds" } }));
                properties.push(json!({
                    "id": "custom.cellOptions",
                    "value": { "mode": "basic", "type": "gauge", "valueDisplayMode": "text" },
                }));
            }
            json!({ "matcher": { "id": "byName", "options": column }, "properties": properties })
        })
        .collect()
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
