"""The formats of strings that are enforced."""

from __future__ import annotations

_DAY = (
    "([1-9][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    "|02-(0[1-9]|1[0-9]|2[0-8]))"
    "|([1-9][0-9](0[48]|[2468][048]|[13579][26])|([2468][048]|[13579][26])00)-02-29)"
)
_TIME = r"(([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9]))"

# llguidance's own know no leap years, and take every minute to have a leap second.
PATTERNS = {"date": f"^{_DAY}$", "time": f"^{_TIME}$", "date-time": f"^{_DAY}T{_TIME}$"}
# These it has itself. The longest string of each, so that no model can go on in one until its tokens run out.
BUILT_IN = {"duration": 40, "email": 100, "hostname": 100, "ipv4": 15, "ipv6": 39, "uri": 300, "uuid": 36}
