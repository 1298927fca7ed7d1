//! From a request's head to what is done with it.
//!
//! [`Service`] is the story; [`admit`] decides, and holds the order of all checks that need no waiting.

mod service;
mod pace;
mod keeper;
mod patience;
mod body;
mod proxy;
mod admit;
mod forwarded;
mod host;
mod origin;
mod rejection;
mod live;
mod limits;
mod access_log;
mod metrics;

pub use self::admit::{Admitted, Arrival, HeadSizes, Refused, RouteRules, Rules, Takes, admit};
pub use self::forwarded::{
    Forwarded, ForwardedHeaders, InvalidProxy, Scheme, TrustedProxies, TrustedProxy, resolve,
};
pub use self::host::{Host, HostPattern, HostPatternError, InvalidHost};
pub use self::limits::{Admittance, LimitSettings, Limits};
pub use self::live::{Drain, Live, Snapshot, Target, TargetKind};
pub use self::metrics::{Metrics, RouteMetrics};
pub use self::origin::{NoOrigin, OriginPattern, OriginPatternError, OriginPolicy, OriginRefusal};
pub use self::proxy::Proxy;
pub use self::rejection::{BadRequest, Rejection, TooLarge};
pub use self::service::Service;
