//! What is counted of requests and handshakes.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::StatusCode;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

use crate::request::Rejection;

/// Requests and handshakes, in seconds.
const DURATIONS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// The label of a request that no route took.
const NO_ROUTE: &str = "_none";

/// The metrics of all requests, from which each route takes its handles.
#[derive(Debug)]
pub struct Metrics {
    handshakes: IntCounterVec,
    handshake_durations: HistogramVec,
    requests: IntCounterVec,
    request_durations: HistogramVec,
    /// Answers over HTTP/2, and connections, whose clients took nothing.
    pub(super) not_taken: IntCounter,
    /// Of what no route took.
    none: Arc<RouteMetrics>,
    routes: Mutex<HashMap<Arc<str>, Arc<RouteMetrics>>>,
}

/// The handles of one route.
pub struct RouteMetrics {
    route: Arc<str>,
    accepted: IntCounter,
    refused: [IntCounter; Rejection::LABELS.len()],
    handshake_duration: Histogram,
    request_duration: Histogram,
    requests: IntCounterVec,
    /// Those of [`USUAL_STATUSES`], each from its first answer on.
    usual_requests: [OnceLock<IntCounter>; USUAL_STATUSES.len()],
}

/// Statuses that are not looked up each time they are counted.
const USUAL_STATUSES: [StatusCode; 12] = [
    StatusCode::OK,
    StatusCode::CREATED,
    StatusCode::NO_CONTENT,
    StatusCode::PARTIAL_CONTENT,
    StatusCode::MOVED_PERMANENTLY,
    StatusCode::FOUND,
    StatusCode::NOT_MODIFIED,
    StatusCode::BAD_REQUEST,
    StatusCode::UNAUTHORIZED,
    StatusCode::FORBIDDEN,
    StatusCode::NOT_FOUND,
    StatusCode::BAD_GATEWAY,
];

impl fmt::Debug for RouteMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteMetrics").field("route", &self.route).finish_non_exhaustive()
    }
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    ///
    /// A name is taken already: our fault.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, label: &str| {
            let counters = IntCounterVec::new(Opts::new(name, help), &["route", label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let histograms = |name: &str, help: &str| {
            let opts = HistogramOpts::new(name, help).buckets(DURATIONS.to_vec());
            let histograms = HistogramVec::new(opts, &["route"])?;
            registry.register(Box::new(histograms.clone()))?;
            Ok::<_, prometheus::Error>(histograms)
        };
        let handshakes = counters(
            "anteroom_websocket_handshakes_total",
            "WebSocket handshakes, by what became of them",
            "result",
        )?;
        let handshake_durations = histograms(
            "anteroom_websocket_handshake_duration_seconds",
            "From the request head to the 101, the joining of the room included",
        )?;
        let requests = counters(
            "anteroom_http_requests_total",
            "Plain requests, by the status of the answer; 499 for a client that left",
            "code",
        )?;
        let request_durations = histograms(
            "anteroom_http_request_duration_seconds",
            "Plain requests, from the head to the answer, or until the client left without one",
        )?;
        let not_taken = IntCounter::new(
            "anteroom_http_answers_not_taken_total",
            "Broken off because the client took nothing: answers over HTTP/2 after 30 s, connections after 60 s",
        )?;
        registry.register(Box::new(not_taken.clone()))?;
        let none =
            resolve(&NO_ROUTE.into(), &handshakes, &handshake_durations, &requests, &request_durations);
        let none = Arc::new(none);
        none.begin(&[
            StatusCode::BAD_REQUEST,
            StatusCode::NOT_FOUND,
            StatusCode::URI_TOO_LONG,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        ]);
        Ok(Self {
            handshakes,
            handshake_durations,
            requests,
            request_durations,
            not_taken,
            none,
            routes: Mutex::default(),
        })
    }

    /// The handles of a route; the same ones for the same name, all of them starting at 0.
    pub fn route(&self, name: &Arc<str>) -> Arc<RouteMetrics> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let resolve = || {
            let Self { handshakes, handshake_durations, requests, request_durations, .. } = self;
            Arc::new(resolve(name, handshakes, handshake_durations, requests, request_durations))
        };
        Arc::clone(routes.entry(Arc::clone(name)).or_insert_with(resolve))
    }

    /// The handles for what no route took.
    pub fn no_route(&self) -> &Arc<RouteMetrics> {
        &self.none
    }

    /// The routes that have series.
    pub fn route_names(&self) -> Vec<Arc<str>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).keys().map(Arc::clone).collect()
    }

    /// Forgets the series of a route. To be called after a scrape.
    pub fn forget_route(&self, route: &str) {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).remove(route);
        // A series that is gone already is what is wanted.
        let gone = |_: prometheus::Error| ();
        for result in Rejection::LABELS.iter().chain(&["accepted"]) {
            self.handshakes.remove_label_values(&[route, result]).unwrap_or_else(gone);
        }
        for code in 200_u16..600 {
            self.requests.remove_label_values(&[route, &code.to_string()]).unwrap_or_else(gone);
        }
        self.handshake_durations.remove_label_values(&[route]).unwrap_or_else(gone);
        self.request_durations.remove_label_values(&[route]).unwrap_or_else(gone);
    }
}

impl RouteMetrics {
    /// The route's name, as the label has it.
    pub fn name(&self) -> &Arc<str> {
        &self.route
    }

    /// Has these statuses of plain requests start at 0; others appear with their first answer.
    pub fn begin(&self, statuses: &[StatusCode]) {
        for status in statuses {
            self.requests.with_label_values(&[&*self.route, status.as_str()]);
        }
    }

    pub(super) fn accepted(&self, took: Duration) {
        self.accepted.inc();
        self.handshake_duration.observe(took.as_secs_f64());
    }

    pub(super) fn refused(&self, rejection: &Rejection) {
        let label = rejection.label();
        let at = Rejection::LABELS.iter().position(|&one| one == label);
        if let Some(counter) = at.and_then(|at| self.refused.get(at)) {
            counter.inc();
        }
    }

    /// Counts an answer to what never was a request.
    pub(super) fn unreadable(&self, status: StatusCode) {
        self.count(status);
    }

    pub(super) fn answered(&self, status: StatusCode, took: Duration) {
        self.count(status);
        self.request_duration.observe(took.as_secs_f64());
    }

    fn count(&self, status: StatusCode) {
        let counter = || self.requests.with_label_values(&[&*self.route, status.as_str()]);
        let usual = USUAL_STATUSES.iter().zip(&self.usual_requests).find(|(usual, _)| **usual == status);
        match usual {
            Some((_, known)) => known.get_or_init(counter).inc(),
            None => counter().inc(),
        }
    }
}

fn resolve(
    route: &Arc<str>,
    handshakes: &IntCounterVec,
    handshake_durations: &HistogramVec,
    requests: &IntCounterVec,
    request_durations: &HistogramVec,
) -> RouteMetrics {
    RouteMetrics {
        route: Arc::clone(route),
        accepted: handshakes.with_label_values(&[&**route, "accepted"]),
        refused: Rejection::LABELS.map(|label| handshakes.with_label_values(&[&**route, label])),
        handshake_duration: handshake_durations.with_label_values(&[route]),
        request_duration: request_durations.with_label_values(&[route]),
        requests: requests.clone(),
        usual_requests: Default::default(),
    }
}
