"""Loads Nova's policy before the first request does, in each process of nova-api.

Nova 33 leaves that to the first request, without a lock: of two that come at once, as they do when
a restarted process is put back behind its load balancer, the second meets half of the rules.
"""

from __future__ import annotations

import nova.wsgi.osapi_compute  # noqa: F401  reads the configuration that policy.init needs
from nova import policy

policy.init()
