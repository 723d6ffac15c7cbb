"""A gateway that turns Microsoft Graph's polled long-running copies into pushed events."""
