"""Styles in other people's programs: diffusers, spandrel (and with it chaiNNer), ComfyUI.

Nothing of the package needs these modules, and each needs the library that it is named after.
"""
