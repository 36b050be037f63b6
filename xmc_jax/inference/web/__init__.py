"""The static page that draws with an exported model in a browser.

`static/` holds its scripts, which need no build; `pages/templates/draw.html.jinja` is the page.
"""
