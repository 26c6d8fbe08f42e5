"""Headers of what the plugin answers, for browsers."""

PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""A page of ours loads and calls what this Orthanc serves, and nothing else; nothing written into it runs."""

FOR_ALL = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def page_headers() -> dict[str, str]:
    """The headers of a page of ours and of what it consists of.

    A browser asks for it anew each time: a page of an older version would speak with a newer plugin.
    """
    return {
        **FOR_ALL,
        "Content-Security-Policy": PAGE_POLICY,
        "Cross-Origin-Opener-Policy": "same-origin",
        "X-Frame-Options": "DENY",
        "Cache-Control": "no-cache",
    }


def data_headers() -> dict[str, str]:
    """The headers of an answer with data: no browser or proxy keeps it, runs it, or shows it to another site."""
    return {
        **FOR_ALL,
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        "Cache-Control": "no-store",
    }


def report_headers() -> dict[str, str]:
    """The headers of a report: one page with its styles and pictures in itself, of which nothing runs or is fetched."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox"
    return {**FOR_ALL, "Content-Security-Policy": policy, "X-Frame-Options": "DENY", "Cache-Control": "no-store"}
