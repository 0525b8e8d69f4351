"""The Gradio app: texts, theme, HTML fragments, handlers that call the pipeline, endpoints and layout.

Only this package and app.py import gradio.
"""
