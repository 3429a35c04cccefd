"""The reference study: its plan, its costs, and the findings written from its rows."""
