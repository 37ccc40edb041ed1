"""The Space: `styleforge demo`, for everybody."""

from styleforge.demo import launch

if __name__ == "__main__":
    launch()
